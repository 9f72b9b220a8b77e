// Command bench measures porthole beside the same services on kernel sockets, with
// the same clients, in one run: `make bench`.
//
// Three targets stand ready side by side, each in network namespaces that the
// program makes and removes: porthole on the offload device, porthole on the water
// device, and the catalogue's own services on kernel sockets at the far end of a veth
// pair. All have the same addresses, MTU and congestion control, so every client is
// called with the same words. A work (a download, requests, queries) is measured on
// all targets right after each other, which is a round; rounds rotate the order. What
// counts are ratios within a round: the machine may be slow, but then it was slow for
// all. The table shows the median of each target, the median of the ratios, and their
// spread.
//
//	main.go      flags, rounds, signals      target_linux.go  namespaces and servers
//	works.go     what is measured, by whom   serve_linux.go   one server, a child process
//	parse.go     what clients print          clients_linux.go own clients, child processes
//	report.go    medians, table, JSON        kernel_linux.go  services.Env on kernel sockets
//	svg.go       the picture                 proc_linux.go    counters of the machine
//	curves.go    how cost grows, plots       doc.go           docs/performance.md
//	refs_linux.go    nginx, Knot, dnsmasq    figures_linux.go floods, memory, start
//
// Not measured: IPv6, more than one bulk stream, more cores than this machine has.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	rounds  int
	limit   time.Duration // no round begins that would likely end after it; 0: none
	time    time.Duration // of one measurement
	quiet   time.Duration // longest wait for a quiet machine, before each work of a round
	only    *regexp.Regexp
	targets []string
	out     string // folder for the JSON and the SVG
	format  string
	profile string // folder for CPU profiles of the servers
	log     string // file for access lines of the servers
	mtu     int
	quick   bool
	curves  bool
	doc     string
}

func main() {
	if len(os.Args) > 1 && runChild(os.Args[1], os.Args[2:]) {
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	o, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.doc != "" {
		return writeDoc(o.out, o.doc)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.curves {
		c, err := measureCurves(ctx, o)
		if err != nil {
			return err
		}
		return c.save(o.out)
	}
	r, err := measure(ctx, o)
	if ctx.Err() != nil {
		err = errors.New("interrupted; the figures are of the rounds until then")
	}
	if r == nil || len(r.Works) == 0 {
		return err
	}
	if o.format == "bench" {
		r.writeBench(os.Stdout)
	} else {
		r.writeTable(os.Stdout)
	}
	if err == nil && o.out != "" { // half a run replaces no whole one
		err = r.save(o.out)
	}
	return err
}

func parseFlags(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "fewer rounds and shorter measurements: under a minute")
	fs.IntVar(&o.rounds, "rounds", 0, "rounds (default 5, quick 3)")
	fs.DurationVar(&o.time, "time", 0, "length of one measurement (default 2s, quick 300ms; wrk and dnsperf take whole seconds)")
	fs.DurationVar(&o.quiet, "quiet", 0, "longest wait for a quiet machine before each work (default 3s, quick 200ms)")
	only := fs.String("only", "", "measure the works that match this `regexp`")
	targets := fs.String("targets", strings.Join(targetNames, ","), "what to measure")
	fs.StringVar(&o.out, "out", "", "write bench.json and bench.svg into this `folder`")
	fs.StringVar(&o.format, "format", "table", "table, or bench: lines for benchstat")
	fs.StringVar(&o.profile, "profile", "", "write CPU profiles of the servers into this `folder`")
	fs.StringVar(&o.log, "log", "", "have the servers write an access line for each request to this `file`, such as /dev/null (default: none)")
	fs.BoolVar(&o.curves, "curves", false, "measure how cost grows with connections and queues, and write curves.json into -out")
	fs.StringVar(&o.doc, "doc", "", "measure nothing: write performance.md and its pictures from what lies in -out into this `folder`")
	fs.IntVar(&o.mtu, "mtu", 1500, "MTU of all links")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	def := func(d *time.Duration, full, short time.Duration) {
		if *d == 0 && o.quick {
			*d = short
		} else if *d == 0 {
			*d = full
		}
	}
	def(&o.time, 2*time.Second, 300*time.Millisecond)
	def(&o.quiet, 3*time.Second, 200*time.Millisecond)
	if o.quick {
		o.limit = 48 * time.Second
	}
	if o.rounds == 0 {
		if o.rounds = 5; o.quick {
			o.rounds = 3
		}
	}
	if o.rounds < 1 || o.rounds > 100 || o.time < 100*time.Millisecond || o.time > 10*time.Second {
		return nil, errors.New("want 1 to 100 rounds of 100ms to 10s")
	}
	if (o.curves || o.doc != "") && o.out == "" {
		return nil, errors.New("-curves and -doc want -out")
	}
	if o.format != "table" && o.format != "bench" {
		return nil, fmt.Errorf("format %q is none of table, bench", o.format)
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	for t := range strings.SplitSeq(*targets, ",") {
		if indexOf(targetNames, t) < 0 {
			return nil, fmt.Errorf("target %q is none of %s", t, strings.Join(targetNames, ", "))
		}
		o.targets = append(o.targets, t)
	}
	return o, nil
}

// targetNames in the order of the table's columns. The first is the reference.
var targetNames = []string{"veth", "offload", "water"}

func indexOf(list []string, s string) int {
	for i, v := range list {
		if v == s {
			return i
		}
	}
	return -1
}
