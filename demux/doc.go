// Package demux owns the port table: for each TCP and UDP port a bounded queue,
// its counters and its limits, and for what belongs to no port a few lanes that
// are queues like any other. It decides each packet's verdict before the TCP/IP
// stack sees it, so that a flood on one port fills that port's queue and dies there.
//
// A packet's way through this package, downward through its files:
//
//	ingress.go   the reader's batch: parse, verdict, find the line; push.go: push runs
//	verdict.go   addresses and checksums: what may not pass at all
//	table.go     the lines: one per port, 64 bytes without a pointer, the queue's head
//	queue.go     push, pop, limits, under the line's own mutex
//	policy.go    what a socket's queue loses: tail, head, or by CoDel (codel.go)
//	runq.go      ports that hold packets, served in turn (deficit round robin)
//	pool.go      the packets themselves: slots, by handle
//	impair.go    what impairment rules touch; rules.go: what they hold back
//	door.go      which connections a listening port admits; halfopen.go: its SYN queue
//	tap.go       who looks on: the timelines; watch.go: captures
//	knock.go     what came for ports that nobody has
//	fate.go      what became of each packet; snapshot.go: the ledger
//	log.go       the event log
//
// Time is an argument (Options.Now), and nothing here runs by itself: a model drives
// a host's own queue on a virtual clock with Bind (Config.Socket), Ingress.Deliver and
// Pop alone, as the example of Table.SetPolicy does.
//
// Law: arrived = sum of fates + still queued, at every snapshot.
package demux
