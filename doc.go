// Package porthole is a virtual host that you can see into. A device feeds raw IP
// into a userspace TCP/IP stack; a port table routes every segment to its port's
// own bounded receive queue; the queues feed real services.
//
//	in :  tun ──batch──> demux: classify -> port -> verdict -> queue ──> stack ──> net.Conn ──> service
//	                                                  └── UDP: the service reads the queue itself ──┘
//	out:  service ──> net.Conn / PacketConn ──> stack link ──> tun
//
// Owners: demux.Table owns the ports, queues and counters; demux.Log the events;
// stack the sockets and TCP state; this package only wires them. Whoever starts a
// goroutine waits for it. Run stops in this order: services return, the device
// closes (which frees readers and waiting writes), the stack closes and is waited for,
// what was logged is written.
package porthole
