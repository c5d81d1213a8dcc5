"""One question, thought by thought: what each says, what it looks at, and what it does."""

from codi_lens.analysis.thoughts.found import Reading as Reading
from codi_lens.analysis.thoughts.found import Thoughts as Thoughts
from codi_lens.analysis.thoughts.read import other_numbers as other_numbers
from codi_lens.analysis.thoughts.read import read_thoughts as read_thoughts
