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

func TestNearest(t *testing.T) {
	known := []string{"address", "address6", "ftp", "http", "mtu", "name"}
	for in, want := range map[string]string{"adress": "address", "addres6": "address", "MTU": "mtu", "mut": "mtu", "nam": "name", "ddress": "address", "htp": "http", "x": "", "": ""} {
		if got := Nearest(in, known); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
