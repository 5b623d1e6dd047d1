"""The command line. Heavy packages are imported inside the commands, so that --help is immediate."""
