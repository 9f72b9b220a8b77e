package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoIP: without the tool that makes namespaces nothing is measured, and the error
// names its package.
func TestNoIP(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := newBench(t.Context(), &options{})
	require.ErrorContains(t, err, "Debian package iproute2")
}
