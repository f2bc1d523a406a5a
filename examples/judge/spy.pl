# Hostile: prints what is none of its business.
open my $file, "<", "/etc/passwd" or die "Cannot open it: $!";
print <$file>;
