//go:build !linux

package tun

func child(string) {}
