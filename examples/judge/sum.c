#include <stdio.h>

int main(void) {
  long n;
  scanf("%ld", &n);
  printf("%ld\n", n * (n + 1) / 2);
}
