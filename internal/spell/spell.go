// Package spell says how far a mistyped word is from one that is meant.
package spell

// Distance counts the letters to insert, delete or change to make b of a (Levenshtein),
// over bytes. A word a of more than 64 bytes is as far as it is long: b is one of
// ours, and short.
func Distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
