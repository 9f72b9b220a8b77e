//go:build !linux

package main

import (
	"context"
	"errors"
)

var selfPath = "bench"

func runChild(string, []string) bool { return false }

func measure(context.Context, *options) (*report, error) {
	return nil, errors.New("needs Linux: network namespaces, veth and TUN")
}
