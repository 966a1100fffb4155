"""`python -m launch`."""

import sys

from launch import cli

if __name__ == "__main__":
  sys.exit(cli.main())
