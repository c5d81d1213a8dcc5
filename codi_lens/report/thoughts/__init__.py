"""One question on a page of its own: its thoughts side by side, each with what it says, reads and does.

`page.py` fills the page; `numbers.js` looks its numbers up and `drawing.js` makes its parts, for `page.js`.
"""

from codi_lens.report.thoughts.page import show_thoughts as show_thoughts
from codi_lens.report.thoughts.page import thoughts_page as thoughts_page
