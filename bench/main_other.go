//go:build !linux

package main

import (
	"context"
	"errors"
)

var selfPath = "bench"

// What works name and no other system has.
type (
	bench  struct{}
	target struct{}
)

func measureCurves(context.Context, *options) (*curves, error) {
	return nil, errors.New("needs Linux")
}

func runChild(string, []string) bool { return false }

func measure(context.Context, *options) (*report, error) {
	return nil, errors.New("needs Linux: network namespaces, veth and TUN")
}
