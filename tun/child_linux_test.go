package tun

func child(string) {}
