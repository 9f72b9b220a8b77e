package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"

	"porthole"
	"porthole/services"
	"porthole/services/http"
	"porthole/tun"
)

// runChild runs this program as a server or a client in a namespace, when it was
// called as one.
func runChild(kind string, args []string) bool {
	var err error
	switch {
	case kind == "serve" && len(args) == 3:
		err = serve(args[0], args[1], args[2])
	case kind == "hold" && len(args) == 2:
		err = hold(args[0], args[1])
	case kind == "client" && len(args) == 2:
		err = runClient(args[0], args[1])
	default:
		return false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s %s: %v\n", kind, args[0], err)
		os.Exit(1)
	}
	return true
}

// serve is one server: it says "ready", obeys the lines of its standard input, and
// ends with it. Ctrl-C reaches the whole group of processes, so it is the parent's.
func serve(name, mtuText, logFile string) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	mtu, err := strconv.Atoi(mtuText)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if logFile != "" {
		f, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		log = slog.New(slog.NewTextHandler(f, nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready := func(h *porthole.Host) {
		fmt.Println("ready")
		go func() {
			obey(h)
			cancel()
		}()
	}
	if name == "veth" {
		return serveKernel(ctx, mtu, log, func() { ready(nil) })
	}
	return serveHost(ctx, name, mtu, log, ready)
}

// serveHost runs porthole as it comes, on a device of the given kind.
func serveHost(ctx context.Context, kind string, mtu int, log *slog.Logger, ready func(*porthole.Host)) error {
	cfg := porthole.DefaultConfig()
	cfg.Link.MTU = mtu
	cfg.Link.Address = netip.MustParsePrefix(host + "/24")
	cfg.Link.PeerAddress = client
	cfg.Link.Address6, cfg.Link.PeerAddress6 = netip.Prefix{}, "none"
	cfg.Services["http"].Options.(*http.Config).MaxConnections = 2 * idleConns
	dev, err := tun.Open(tun.Options{
		Name: cfg.Link.Interface, Kind: kind, MTU: mtu,
		Peer4: netip.MustParsePrefix(client + "/24"),
	})
	if err != nil {
		return err
	}
	h, err := porthole.New(cfg, dev, log)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	select {
	case <-h.Ready():
	case err := <-done:
		return err
	}
	for _, p := range h.Ports() {
		if p.State == "failed" {
			return fmt.Errorf("%v %s: %s", p.Port, p.Service, p.Error)
		}
	}
	ready(h)
	return <-done
}

// discardPort is where datagrams are queued.
var discardPort = services.UDP(9)

// obey does what the parent asks, until it closes the pipe or is gone. h is nil for the
// kernel's sockets, which have no queue to ask for.
func obey(h *porthole.Host) {
	in := bufio.NewScanner(os.Stdin)
	var profile *os.File
	for in.Scan() {
		var err error
		word, rest, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "profile":
			if profile, err = os.Create(rest); err == nil {
				err = pprof.StartCPUProfile(profile)
			}
		case "memory":
			debug.FreeOSMemory() // twice: what pools hold outlives one collection
			debug.FreeOSMemory()
			fmt.Println(ownRSS())
			continue
		case "queue":
			var s porthole.Settings
			if s, err = porthole.ParseSettings("queue=" + rest + " queue-bytes=64MiB accept=never"); err == nil {
				err = h.Set(discardPort, s)
			}
		case "queued":
			st, _ := h.PortStatus(discardPort)
			fmt.Println(st.Queued)
			continue
		case "unqueue":
			err = h.Reset(discardPort)
		case "stop":
			pprof.StopCPUProfile()
			err = profile.Close()
		default:
			err = fmt.Errorf("no such command: %s", word)
		}
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("ok")
	}
}
