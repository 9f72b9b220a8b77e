package main

type clientCmd struct{}

func (clientCmd) Run() error { return nil }
