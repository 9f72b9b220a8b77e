package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCapturePage: the page of captures names every flag.
func TestCapturePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/capture.md")
	require.NoError(t, err)
	flags := reflect.TypeFor[captureCmd]()
	for i := range flags.NumField() {
		f := flags.Field(i)
		switch {
		case f.Anonymous:
		case f.Name == "Write" || f.Name == "Count":
			require.Contains(t, string(page), "`-"+f.Tag.Get("short")+" "+f.Tag.Get("placeholder"))
		default:
			require.Contains(t, string(page), "`--"+strings.ToLower(f.Name))
		}
	}
}
