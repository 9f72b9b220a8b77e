package main

// allWorks are the works in the order of the tables: beside kernel sockets, beside
// servers in C, figures.
func allWorks() []*work {
	return append(append([]*work{}, works...),
		like("http", "nginx", 0.65),
		like("http-close", "nginx", 0),
		like("dns", "knotd", 0.8),
		like("dhcp", "dnsmasq", 1),
		&work{
			name: "flood-dns", about: "of the quiet rate on 80/tcp (wrk, 32 connections), while 53/udp gets 100,000 queries a second",
			unit: "kept", reach: 0.9, tool: "wrk", pack: "wrk", figure: true, long: true, run: kept("flood-dns"),
		},
		&work{
			name: "flood-syn", about: "of the quiet rate on 80/tcp, while a closed port gets 100,000 SYNs a second",
			unit: "kept", reach: 0.9, tool: "wrk", pack: "wrk", figure: true, long: true, run: kept("flood-syn"),
		},
		&work{
			name: "flood-none", about: "of the quiet rate on 80/tcp, while the client gives 100,000 datagrams a second to a device that drops them: what sending alone costs the shared cores",
			unit: "kept", tool: "wrk", pack: "wrk", figure: true, long: true, run: kept("flood-none"),
		},
		&work{
			name: "idle", about: "resident memory of the server for each of 10,000 HTTP connections that wait (veth's is partly the kernel's, which is not counted)",
			unit: "KiB", reach: 16, tool: "self", figure: true, most: true, long: true, run: idleMemory,
		},
		&work{
			name: "start", about: "from starting `porthole up` to its line `porthole: ready`",
			unit: "ms", reach: 300, tool: "self", figure: true, most: true, on: []string{"offload"}, run: startTime,
		},
		&work{
			name: "rss", about: "resident memory of `porthole up` when it is ready and idle",
			unit: "MiB", reach: 40, tool: "self", figure: true, most: true, on: []string{"offload"}, run: startMemory,
		},
	)
}
