// Right for small numbers alone: an int ends at 2147483647.
#include <stdio.h>

int main(void) {
  int n, sum = 0;
  scanf("%d", &n);
  for (int i = 1; i <= n; i++) sum += i;
  printf("%d\n", sum);
}
