
"use strict";
// One answer at a time. Text of a row reaches the page through textContent and nothing else.
(() => {
  const LEAST_MS = 250; // a key that comes sooner after an answer is shown was pressed twice: nobody has read the answer
  const WAIT_MS = 10000;
  const at = (id) => document.getElementById(id);
  const buttons = [...document.querySelectorAll("button[data-label]")];
  let here = null; // what is shown, as the server sent it
  let busy = false;
  let shown_ms = 0;

  const ask = async (address, body) => {
    const asked = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    let reply;
    try {
      const got = await fetch(address, { ...asked, cache: "no-store", signal: AbortSignal.timeout(WAIT_MS) });
      reply = await got.json();
    } catch {
      throw new Error("The server does not answer. Has it been stopped? Give the command again and open the address that it prints.");
    }
    if (reply.error) throw new Error(reply.error);
    return reply;
  };

  const show = (next) => {
    here = next;
    const done = next.row === null;
    at("progress").textContent = `${next.labelled} of ${next.total} labelled`;
    at("bar").max = next.total;
    at("bar").value = next.labelled;
    document.title = `${next.labelled} of ${next.total} · Label answers · Spillover`;
    at("said").hidden = at("keys").hidden = at("help").hidden = done;
    at("end").hidden = !done;
    if (done) {
      at("end").textContent = `All ${next.total} are labelled. You can close this page.`;
      at("end").focus();
      return;
    }
    at("place").textContent = `Answer ${next.row + 1}${next.label === null ? "" : `, which you labelled ${next.label}`}`;
    at("question").textContent = next.question;
    at("answer").textContent = next.answer || "(empty answer)";
    at("answer").classList.toggle("empty", !next.answer);
    for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.dataset.label) === next.label));
    at("back").disabled = next.row === 0;
    at("forward").disabled = next.row >= next.last;
    at("place").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    shown_ms = performance.now();
  };

  // Everything that asks the server comes through here, one at a time; what fails is said, and the page stays where it is.
  const go = async (address, body, failed) => {
    if (busy) return;
    busy = true;
    at("main").setAttribute("aria-busy", "true");
    try {
      show(await ask(address, body));
      at("message").textContent = "";
      at("last").textContent = body === undefined ? "" : `Answer ${body.row + 1}: ${body.label}, saved`;
    } catch (error) {
      at("keys").hidden = false;
      at("message").textContent = "";
      at("message").textContent = `${failed} ${error.message}`;
      at("last").textContent = "";
    } finally {
      at("main").removeAttribute("aria-busy");
      busy = false;
    }
  };

  const label = (key) => {
    if (here === null || here.row === null || performance.now() - shown_ms < LEAST_MS) return;
    go("label", { row: here.row, label: key }, "Not saved.");
  };

  const move = (by) => {
    if (here === null || here.row === null || here.row + by < 0 || here.row + by > here.last) return;
    go(`row/${here.row + by}`, undefined, "Nothing has changed.");
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (/^[0-5]$/.test(event.key)) {
      event.preventDefault();
      if (!event.repeat) label(Number(event.key));
    } else if (event.key === "Backspace" || event.key === "ArrowLeft") {
      event.preventDefault();
      move(-1);
    } else if (event.key === "ArrowRight") {
      event.preventDefault();
      move(1);
    }
  });
  for (const button of buttons) button.addEventListener("click", () => label(Number(button.dataset.label)));
  at("back").addEventListener("click", () => move(-1));
  at("forward").addEventListener("click", () => move(1));
  go("row", undefined, "There is nothing to show.");
})();
