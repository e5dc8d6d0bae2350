"""The road: train, sample, judge, estimate, each step skipped where its result is already whole."""

from spillover.pipeline.config import RunConfig as RunConfig
from spillover.pipeline.estimate import estimate as estimate
from spillover.pipeline.estimate import estimates as estimates
from spillover.pipeline.judge import judge_again as judge_again
from spillover.pipeline.opened import opened as opened
from spillover.pipeline.plan import Plan as Plan
from spillover.pipeline.plan import plan as plan
from spillover.pipeline.road import run as run
