// Has room for a thousand numbers, and writes where more would be.
#include <stdio.h>

long sums[1001];

int main(void) {
  long n;
  scanf("%ld", &n);
  for (long i = 1; i <= n; i++) sums[i] = sums[i - 1] + i;
  printf("%ld\n", sums[n]);
}
