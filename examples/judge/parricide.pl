# Hostile: ends whoever started it.
kill KILL => getppid or die "Cannot kill it: $!";
