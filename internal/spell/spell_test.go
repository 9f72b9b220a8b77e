package spell

import (
	"strings"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "rate", 4}, {"rate", "", 4}, {"rate", "rate", 0}, {"rat", "rate", 1}, {"rite", "rate", 1},
		{"htp", "http", 1}, {"kitten", "sitting", 3}, {strings.Repeat("a", 65), "a", 65},
	} {
		if got := Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
