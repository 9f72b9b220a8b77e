package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"porthole/internal/netns"
)

func memfd(name string) (int, error) { return unix.MemfdCreate(name, unix.MFD_CLOEXEC) }

func readLine(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// tcpCounters are of one namespace's kernel.
type tcpCounters struct {
	retrans uint64 // segments sent again (RetransSegs)
	again   uint64 // segments that came although they were here (TCPDSACKOldSent, TCPDSACKOfoSent)
}

// countersOf reads the counters of the namespace that a process or thread is in.
func countersOf(proc string) (c tcpCounters) {
	snmp, _ := os.ReadFile("/proc/" + proc + "/net/snmp")
	ext, _ := os.ReadFile("/proc/" + proc + "/net/netstat")
	m := map[string]uint64{}
	lines := strings.Split(string(snmp)+string(ext), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := range min(len(names), len(values)) {
			n, _ := strconv.ParseUint(values[j], 10, 64)
			m[names[0]+names[j]] = n
		}
	}
	return tcpCounters{
		retrans: m["Tcp:RetransSegs"],
		again:   m["TcpExt:TCPDSACKOldSent"] + m["TcpExt:TCPDSACKOfoSent"],
	}
}

// clientCounters are of the target's client.
func (t *target) clientCounters() (c tcpCounters) {
	_ = netns.Do(t.clientNS, func() error {
		c = countersOf("thread-self")
		return nil
	})
	return c
}

// serverCounters are of the kernel that carries the server's own sockets.
func (t *target) serverCounters() tcpCounters {
	if t.name != "veth" {
		return tcpCounters{}
	}
	return countersOf(strconv.Itoa(t.cmd.Process.Pid))
}

// cpu is how long the server has run on any core.
func (t *target) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	sys, _ := strconv.Atoi(f[12])
	return time.Duration(user+sys) * (time.Second / 100) // USER_HZ
}

// rss is the server's resident memory in bytes.
func (t *target) rss() int64 { return rssOf(t.cmd.Process.Pid) }

func ownRSS() int64 { return rssOf(os.Getpid()) }

func rssOf(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// waitQuiet waits until the machine is nearly idle, at most for limit, and returns
// how busy it was last.
func waitQuiet(ctx context.Context, limit time.Duration) float64 {
	const step = 200 * time.Millisecond
	for end := time.Now().Add(limit); ; {
		idle0, all0 := cpuTicks()
		select {
		case <-ctx.Done():
			return 1
		case <-time.After(step):
		}
		idle1, all1 := cpuTicks()
		busy := 0.0
		if all1 > all0 {
			busy = 1 - float64(idle1-idle0)/float64(all1-all0)
		}
		if busy <= quietShare || time.Now().After(end) {
			return busy
		}
	}
}

func cpuTicks() (idle, all uint64) {
	f := strings.Fields(readLine("/proc/stat"))
	for i, v := range f[1:min(9, len(f))] { // guest time is counted in user time
		n, _ := strconv.ParseUint(v, 10, 64)
		all += n
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, all
}
