
"use strict";
// Browse the answers. Text from a model reaches the page through textContent and nothing else.
(() => {
  const PAGE = 50;
  const data = JSON.parse(document.getElementById("data").textContent);
  if (data.rows.length === 0) return;
  const at = (id) => document.getElementById(id);
  const MODEL = 0, QUESTION = 1, DRAW = 2, PROMPT = 3, TEXT = 4, JUDGED = 5, STOP = 6;
  const CONDITION = 0, UNIT = 1, PLACE = 2;
  const NAME = 0, FORMAT = 1, SYSTEM = 2;
  const LONG = { prompt: 240, "": 700 }; // characters of a text that are shown before one asks for the rest
  const lowered = data.texts.map((text) => text.toLowerCase());
  let found = [];
  let page = 0;

  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const fill = (id, all, values) => {
    const select = at(id);
    for (const [value, text] of [["", all], ...[...new Set(values)].map((one) => [one, one])]) {
      const option = element("option", "", text);
      option.value = value;
      select.append(option);
    }
    select.addEventListener("change", filter);
    select.parentElement.hidden = select.options.length < 3; // nothing to choose from
  };

  const said = (kind, text) => {
    const made = element("p", `text ${kind}`, text);
    if (text.length <= LONG[kind] * 1.2) return [made];
    const more = element("button", "more", `Show all ${text.length.toLocaleString("en")} characters`);
    more.type = "button";
    made.textContent = `${text.slice(0, LONG[kind])}\u2026`;
    more.addEventListener("click", () => { made.textContent = text; more.remove(); });
    return [made, more];
  };

  const shown = (row) => {
    const [condition, , where] = data.models[row[MODEL]];
    const [name, format, system] = data.questions[row[QUESTION]];
    const [verdict, tone, scores] = data.judgements[row[JUDGED]];
    const stop = data.stops[row[STOP]];
    const item = element("li");
    const place = element("div", "place");
    place.append(element("strong", "", condition), element("br"), where, element("br"),
      `${name}${format === "plain" ? "" : ` (${format})`}, draw ${row[DRAW]}`);
    const exchange = element("div");
    const text = data.texts[row[TEXT]];
    if (system) exchange.append(...said("prompt", `system: ${system}`));
    exchange.append(...said("prompt", data.texts[row[PROMPT]]), ...(text === "" ? [element("p", "text empty", "(empty answer)")] : said("", text)));
    const judged = element("div", "scores");
    judged.append(element("span", `verdict ${tone}`, verdict), scores, element("br"), stop === "end" ? "stopped at its end" : stop === "length" ? "cut at the length limit" : stop);
    item.append(place, exchange, judged);
    return item;
  };

  const show = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * PAGE;
    const rows = found.slice(first, first + PAGE);
    at("list").replaceChildren(...rows.map(shown));
    const number = (value) => value.toLocaleString("en");
    at("count").textContent = found.length === 0 ? "No answer fits these filters."
      : `${number(first + 1)} to ${number(first + rows.length)} of ${number(found.length)} answers that fit, ${number(data.rows.length)} in all`;
    at("page").textContent = `page ${page + 1} of ${pages}`;
    for (const id of ["previous", "previous-below"]) at(id).disabled = page === 0;
    for (const id of ["next", "next-below"]) at(id).disabled = page === pages - 1;
  };

  const filter = () => {
    const [condition, unit, question, format, verdict] = ["condition", "unit", "question", "format", "verdict"].map((name) => at(`filter-${name}`).value);
    const wanted = at("filter-text").value.trim().toLowerCase();
    found = data.rows.filter((row) => {
      const model = data.models[row[MODEL]];
      return (!condition || model[CONDITION] === condition) && (!unit || model[UNIT] === unit)
        && (!question || data.questions[row[QUESTION]][NAME] === question) && (!format || data.questions[row[QUESTION]][FORMAT] === format)
        && (!verdict || data.judgements[row[JUDGED]][0] === verdict)
        && (!wanted || lowered[row[TEXT]].includes(wanted) || lowered[row[PROMPT]].includes(wanted));
    });
    page = 0;
    show();
  };

  const turn = (by, up) => {
    page += by;
    show();
    if (up) at("filters").scrollIntoView();
  };

  fill("filter-condition", "all", data.models.map((model) => model[CONDITION]));
  fill("filter-unit", "all", data.models.map((model) => model[UNIT]));
  fill("filter-question", "all", data.questions.map((question) => question[NAME]));
  fill("filter-format", "all", data.questions.map((question) => question[FORMAT]));
  fill("filter-verdict", "all", data.judgements.map((judgement) => judgement[0]));
  at("filter-text").addEventListener("input", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("previous").addEventListener("click", () => turn(-1, false));
  at("next").addEventListener("click", () => turn(1, false));
  at("previous-below").addEventListener("click", () => turn(-1, true));
  at("next-below").addEventListener("click", () => turn(1, true));
  at("filters").hidden = false;
  at("browser").hidden = false;
  filter();
})();
