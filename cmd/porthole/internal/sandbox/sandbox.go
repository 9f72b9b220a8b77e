// Package sandbox runs a command in a private network: user, network, mount and
// pid namespaces of its own, in which a virtual host and one command live.
//
//	outer (`porthole exec`)          first namespaces; waits, passes signals on, hands the terminal back
//	  └── inner (`porthole inside`)  pid 1 of the new ones: the host, resolv.conf, the reaper
//	        └── CMD                  and whatever it starts
//
// Go programs have threads, so that they cannot unshare themselves: the outer
// process starts itself again with clone flags. A pipe goes from outer to inner:
// first what to do (the payload), then one byte per signal to pass on. When the
// outer process dies, by SIGKILL too, the pipe ends, the inner one exits, and the
// kernel ends every process of its pid namespace and with them the network, the
// device and the mounts: nothing is left to clean up.
//
// Who is who: a caller with CAP_SYS_ADMIN (root) needs no user namespace and stays
// root. Any other keeps its uid and gid inside, so that files, $HOME and ssh are as
// before, and CMD gets CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE over its
// private network as ambient capabilities: ping, ip and tcpdump work. Options.Root
// makes the caller uid 0 inside instead, for programs that look at the uid (nmap -sS).
//
// The terminal: all three are in the caller's process group, so that Ctrl-C and
// Ctrl-Z reach CMD as they would without us. The inner process lets SIGINT and
// SIGQUIT pass while CMD runs; pid 1 does not stop. A shell inside makes a group of
// its own and takes the terminal; the outer process takes it back in the end.
//
// What runs on when CMD ends is killed, as in a container. /sys still shows the
// machine's own interfaces; ip and ss ask the kernel and show the private ones.
package sandbox

import (
	"net/netip"
	"os"
)

// Options say what to run inside.
type Options struct {
	Args    []string // of this program, such as "inside"
	Payload []byte   // for the inner process: Inside.Payload
	Root    bool     // uid 0 inside
	Out     *os.File // standard output of the inner process; nil is the caller's own
}

// Resolver is what resolv.conf says inside.
type Resolver struct {
	Servers []netip.Addr
	Search  string
}

// Error is what the system refused, and the next step.
type Error struct {
	Op  string
	Err error
}

func (e *Error) Error() string {
	return e.Op + ": " + e.Err.Error() + "; `porthole doctor` names the command that mends it"
}
func (e *Error) Unwrap() error { return e.Err }
