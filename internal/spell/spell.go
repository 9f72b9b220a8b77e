// Package spell says how far a mistyped word is from one that is meant.
package spell

import "strings"

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

// Nearest is the known word with the fewest edits to w, or "" when that is more
// than half of w's letters (a word that shares so little is no help). Of two, it is
// the one that begins more like w.
func Nearest(w string, known []string) string {
	w = strings.ToLower(w)
	best, least := "", min(max(len(w)/2, 2)+1, len(w))
	for _, k := range known {
		d := Distance(w, k)
		if d < least || best != "" && d == least && shared(w, k) > shared(w, best) {
			best, least = k, d
		}
	}
	return best
}

// shared is how many letters a and b begin with in common.
func shared(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
