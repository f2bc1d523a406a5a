# Hostile: takes no processor time, and never ends.
sleep;
