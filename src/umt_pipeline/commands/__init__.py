"""The commands of `umt`."""

import os
from pathlib import Path

# Outside of a project Kedro would log to standard output, where `--json` prints its document. It reads this when it is
# imported, which the modules of this room do.
if not Path("conf", "logging.yml").is_file():
    os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(Path(__file__).with_name("logging.yml")))
