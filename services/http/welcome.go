package http

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"porthole/services"
)

// portRows bounds the welcome page's port table: a host may bind all 65,535.
const portRows = 200

// welcome is what the page says, in HTML and in plain text.
type welcome struct {
	Name    string
	Version string
	Started string
	Facts   []fact
	Ports   []services.PortInfo
	More    int
	Tries   []try
	Pages   []link
}

type (
	fact struct{ Name, Value string }
	try  struct{ What, Command string }
	link struct{ Path, What string }
)

func (s *site) serveWelcome(w *response, r *http.Request) {
	data := s.welcome()
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept")
	if prefersText(r.Header) {
		w.text(http.StatusOK, data.text())
		return
	}
	w.page(welcomePage, data)
}

func (s *site) welcome() *welcome {
	host := s.env.Host
	d := &welcome{Name: host.Name, Version: host.Version, Started: host.Started.UTC().Format(time.RFC1123)}
	if s.env.Ports != nil {
		d.Ports = s.env.Ports()
	}
	if host.Addr4.IsValid() {
		d.Facts = append(d.Facts, fact{"IPv4", host.Addr4.String()})
	}
	if host.Addr6.IsValid() {
		d.Facts = append(d.Facts, fact{"IPv6", host.Addr6.String()})
	}
	if host.Zone != "" {
		d.Facts = append(d.Facts, fact{"zone", host.Zone})
	}
	if len(host.HW) > 0 {
		d.Facts = append(d.Facts, fact{"Ethernet", host.HW.String()})
	}
	d.Facts = append(d.Facts, fact{"MTU", strconv.Itoa(host.MTU) + " bytes"})
	d.Facts = append(d.Facts, fact{"your machine", peers(host)})
	d.Tries = s.tries(d.Ports)
	d.Pages = s.pages()
	if n := len(d.Ports) - portRows; n > 0 {
		d.Ports, d.More = d.Ports[:portRows], n
	}
	return d
}

func peers(h services.Host) string {
	var as []string
	for _, a := range []netip.Addr{h.Peer4, h.Peer6} {
		if a.IsValid() {
			as = append(as, a.String())
		}
	}
	if len(as) == 0 {
		return "by DHCP"
	}
	return strings.Join(as, ", ")
}

// tries lists commands that work as they stand, for what this host really runs.
func (s *site) tries(ports []services.PortInfo) []try {
	host := s.env.Host
	addr := host.AddrPort(0).Addr()
	port := map[string]uint16{}
	for _, p := range ports {
		key := p.Service + "/" + p.Port.Proto
		if _, ok := port[key]; !ok {
			port[key] = p.Port.Number
		}
	}
	at := func(p, usual uint16) string {
		if p == usual {
			if addr.Is6() {
				return "[" + addr.String() + "]"
			}
			return addr.String()
		}
		return netip.AddrPortFrom(addr, p).String()
	}
	var ts []try
	add := func(what, format string, args ...any) {
		ts = append(ts, try{what, fmt.Sprintf(format, args...)})
	}
	if p, ok := port["http/tcp"]; ok {
		base := "http://" + at(p, 80)
		add("Download 64 MiB whose every byte is known", "curl -o /dev/null %s/blob/64MiB", base)
		add("Upload a file and get its length and SHA-256 back", "curl -T FILE %s/sink", base)
		add("See your request as the host saw it", "curl %s/test/get", base)
		if s.files != nil && s.cfg.Upload {
			add("Put a file here for others to fetch", "curl -T FILE %s/files/", base)
		}
	}
	if p, ok := port["dns/udp"]; ok {
		opt := ""
		if p != 53 {
			opt = fmt.Sprintf(" -p %d", p)
		}
		add("Ask for a name in its zone", "dig @%s%s http.%s", addr, opt, host.Zone)
	}
	if p, ok := port["ftp/tcp"]; ok {
		add("Look around by FTP", "lftp -e 'ls; bye' ftp://%s", at(p, 21))
	}
	if p, ok := port["echo/udp"]; ok {
		add("Get a datagram echoed", "echo hello | nc -u -w 1 %s %d", addr, p)
	}
	add("Reach it below all ports", "ping -c 3 %s", addr)
	return ts
}

func (s *site) pages() []link {
	ls := []link{
		{"/blob/1MiB", "any number of known bytes, up to " + s.cfg.BlobLimit.String() + ", with ranges"},
		{"/test/", "request and response testing (go-httpbin)"},
	}
	if s.files != nil {
		what := "files"
		if s.cfg.Upload {
			what += ", PUT uploads up to " + s.cfg.UploadLimit.String()
		}
		ls = append(ls, link{"/files/", what})
	}
	for i := len(s.mounts) - 1; i >= 0; i-- {
		if p := s.mounts[i].prefix; p != "/" {
			ls = append(ls, link{p, "this host, live"})
		}
	}
	return ls
}

// text is the page for terminals.
func (d *welcome) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: a virtual host that you can see into (porthole %s)\n\n", d.Name, d.Version)
	for _, f := range d.Facts {
		fmt.Fprintf(&b, "%-14s%s\n", f.Name, f.Value)
	}
	b.WriteString("\nports\n")
	for _, p := range d.Ports {
		fmt.Fprintf(&b, "  %-12s%-12s%s\n", p.Port, p.Service, p.About)
	}
	if d.More > 0 {
		fmt.Fprintf(&b, "  and %d more\n", d.More)
	}
	b.WriteString("\ntry\n")
	for _, t := range d.Tries {
		fmt.Fprintf(&b, "  # %s\n  %s\n", t.What, t.Command)
	}
	b.WriteString("\npages\n")
	for _, l := range d.Pages {
		fmt.Fprintf(&b, "  %-14s%s\n", l.Path, l.What)
	}
	return b.String()
}
