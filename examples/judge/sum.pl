use integer;
my $n = <STDIN>;
print $n * ($n + 1) / 2, "\n";
