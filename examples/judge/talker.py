# Hostile: prints until somebody stops it.
while True:
    print(6)
