# Hostile: as many processes as there can be.
fork while 1;
