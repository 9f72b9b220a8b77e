package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"
)

// work is one thing to measure: a client's command line, and how its output is read.
// The client runs in the client's namespace of each target in turn.
type work struct {
	name    string // the row, and the benchmark's name
	about   string
	unit    string
	reach   float64 // the ratio to veth that is asked for; 0: none
	tool    string  // the client; "self" is this program
	pack    string  // its Debian package
	instead *work   // instead, when the tool is missing
	// argv is the command for a measurement of t; files are paths that it may read.
	argv  func(t time.Duration, f *files) []string
	parse func(out string) (sample, error)
	fails bool // the command ends with an error code when its time is up

	beside string // a reference: the work is measured on it and on the offload device
	// figure is a value that stands for itself, not a ratio: reach is what it shall be
	// at least, or with most at most.
	figure, most bool
	long         bool     // quick leaves it out
	on           []string // targets; nil: all of the run's
	// run measures instead of argv and parse.
	run func(ctx context.Context, b *bench, t *target, f *files, zeros *os.File) (sample, error)
}

// like is another work beside a reference.
func like(name, reference string, reach float64) *work {
	w := *workNamed(name)
	w.name, w.beside, w.reach, w.long = name+"-"+reference, reference, reach, true
	if w.instead != nil {
		i := *w.instead
		i.name, i.beside, i.reach, i.long = w.name, reference, reach, true
		w.instead = &i
	}
	return &w
}

func workNamed(name string) *work {
	for _, w := range works {
		if w.name == name {
			return w
		}
	}
	panic("bench: no work " + name)
}

// files are what clients read.
type files struct {
	queries string // for dnsperf
	zeros   string // some GiB of zeros that are on no disk, as the client sees it
}

const (
	host   = "10.77.0.1"
	client = "10.77.0.2"
	zone   = "porthole.test"

	// nowhere is a network on a device that drops what it gets, and someone in it.
	nowhereNet = "10.78.0.1/24"
	nowhere    = "10.78.0.2"
)

// zerosSize is what an upload promises: below the sink's limit, and more than one
// can send in its time.
const zerosSize = 32 << 30

func seconds(t time.Duration) string {
	return strconv.FormatFloat(t.Seconds(), 'f', 3, 64)
}

// whole is for tools that only know whole seconds.
func whole(t time.Duration) string {
	return strconv.Itoa(int(math.Max(1, math.Round(t.Seconds()))))
}

func self(args ...string) func(time.Duration, *files) []string {
	return func(t time.Duration, _ *files) []string {
		return append(append([]string{selfPath, "client"}, args...), t.String())
	}
}

var works = []*work{
	{
		name: "bulk-down", about: "TCP, one stream, host to client: curl of an endless /blob", unit: "Gbit/s", reach: 0.9,
		tool: "curl", pack: "curl", parse: parseCurl, fails: true,
		argv: func(t time.Duration, _ *files) []string {
			return []string{"curl", "-sS", "--max-time", seconds(t), "-o", "/dev/null",
				"-w", "\n%{http_code} %{size_download} %{time_total}\n", "http://" + host + "/blob/8GiB"}
		},
	},
	{
		name: "bulk-up", about: "TCP, one stream, client to host: curl to /sink, which hashes", unit: "Gbit/s", reach: 0.9,
		tool: "curl", pack: "curl", parse: parseCurl, fails: true,
		argv: func(t time.Duration, f *files) []string {
			return []string{"curl", "-sS", "--max-time", seconds(t), "-o", "/dev/null", "-T", f.zeros,
				"-H", "Expect:", "-w", "\n%{http_code} %{size_upload} %{time_total}\n", "http://" + host + "/sink"}
		},
	},
	{
		name: "bulk-discard", about: "TCP, one stream, client to host: 64 KiB writes to 9/tcp", unit: "Gbit/s", reach: 0.9,
		tool: "self", parse: parseOwn, argv: self("discard"),
	},
	{
		name: "http", about: "wrk, 32 connections kept alive, 128-byte body", unit: "requests/s", reach: 0.75,
		tool: "wrk", pack: "wrk", parse: parseWrk,
		argv: func(t time.Duration, _ *files) []string {
			return []string{"wrk", "-t1", "-c32", "-d" + whole(t) + "s", "http://" + host + "/blob/128"}
		},
	},
	{
		name: "http-close", about: "wrk, 32 at a time, a connection per request", unit: "requests/s", reach: 0.75,
		tool: "wrk", pack: "wrk", parse: parseWrk,
		argv: func(t time.Duration, _ *files) []string {
			return []string{"wrk", "-t1", "-c32", "-d" + whole(t) + "s", "-H", "Connection: close", "http://" + host + "/blob/128"}
		},
	},
	{
		name: "connects", about: "16 at a time: connect to 7/tcp, one byte and back, reset", unit: "connects/s", reach: 0.75,
		tool: "self", parse: parseOwn, argv: self("connects"),
	},
	{
		name: "dns", about: "dnsperf, 16 sockets, 64 queries in flight", unit: "queries/s", reach: 1.5,
		tool: "dnsperf", pack: "dnsperf", parse: parseDNSPerf,
		argv: func(t time.Duration, f *files) []string {
			return []string{"dnsperf", "-s", host, "-d", f.queries, "-c", "16", "-q", "64", "-T", "1", "-l", whole(t)}
		},
		instead: &work{
			name: "dns", about: "own client, 16 sockets with 4 queries in flight each", unit: "queries/s", reach: 1.5,
			tool: "self", parse: parseOwn, argv: self("dns"),
		},
	},
	{
		name: "dns-one", about: "one query after another on one socket", unit: "queries/s", reach: 1.2,
		tool: "self", parse: parseOwn, argv: self("dns-one"),
	},
	{
		name: "dhcp", about: "discover, offer, request, ack through a relay agent, 8 at a time", unit: "exchanges/s",
		tool: "self", parse: parseOwn, argv: self("dhcp"),
	},
}

// queries is dnsperf's input: names that the built-in zone answers.
func queries() string {
	s := ""
	for _, n := range []string{"", "http.", "dns.", "ftp.", "dhcp.", "ns."} {
		s += fmt.Sprintf("%s%s A\n", n, zone)
	}
	return s
}
