# Hostile: as many processes as there can be, and another one whenever there is room.
defined fork or sleep 1 while 1;
