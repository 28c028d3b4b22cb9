# 20 names a stream here.
publish
connect a delta
a > eds +1 +2 +3 +4 +5 +6 +7 +8 +9 +10 +11 +12 +13 +14 +15 +16 +17 +18 +19 +20
a < eds -1 -10 -11 -12 -13 -14 -15 -16 -17 -18 -19 -2 -20 -3 -4 -5 -6 -7 -8 -9
a > eds +21
a ended ResourceExhausted
