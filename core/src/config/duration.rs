//! Durations as operators write them: `"30s"`, `"1h 30m"`, an integer or a float of seconds.
