package dns

import (
	"errors"
	"fmt"
	"time"

	mdns "github.com/miekg/dns"

	"porthole/services"
)

// Config is the service's configuration.
type Config struct {
	Builtin    bool          `yaml:"builtin" doc:"serve the host's own zone and the reverse zones of its link; a zone file of the same name replaces one of them"`
	TTL        time.Duration `yaml:"ttl" doc:"time to live of the built-in records, whole seconds, up to 24h"`
	Zones      []ZoneFile    `yaml:"zones" doc:"more zones, from RFC 1035 master files; $INCLUDE reaches files in the same directory only, and records of $GENERATE live 3600 s unless its line says otherwise"`
	Identity   bool          `yaml:"identity" doc:"say name and version to CH TXT hostname.bind, id.server, version.bind, version.server, and the name to NSID"`
	Transfer   bool          `yaml:"transfer" doc:"give whole zones to any client that asks (AXFR over TCP, RFC 5936)"`
	MaxUDPSize int           `yaml:"max-udp-size" doc:"bytes of the longest UDP reply, 512 to 4096; longer ones are truncated and the client asks again over TCP"`

	TCPConnections int           `yaml:"tcp-connections" doc:"open TCP connections, 1 to 65536; one more closes the one that was idle longest"`
	TCPQueries     int           `yaml:"tcp-queries" doc:"queries on one TCP connection, after which it is closed"`
	TCPIdle        time.Duration `yaml:"tcp-idle" doc:"how long a TCP connection may be idle (RFC 7766)"`
	TCPMessage     time.Duration `yaml:"tcp-message" doc:"how long a client may take to send the rest of a message it began, or to take a reply"`
}

// ZoneFile is one zone read from a master file.
type ZoneFile struct {
	Name string `yaml:"name" doc:"name of the zone"`
	File string `yaml:"file" doc:"its master file (RFC 1035, section 5)"`
}

func defaultConfig() *Config {
	return &Config{
		Builtin: true, TTL: time.Minute, Zones: []ZoneFile{}, Identity: true, MaxUDPSize: 1232,
		TCPConnections: 256, TCPQueries: 1_000_000, TCPIdle: 10 * time.Second, TCPMessage: 5 * time.Second,
	}
}

// maxZones bounds the zone files of one server.
const maxZones = 1024

// Validate reports the first wrong key. It reads every zone file, so that a
// mistake in one is found before the host starts.
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return &services.ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
	}
	within := func(key string, d, most time.Duration) error {
		if d < 100*time.Millisecond || d > most {
			return bad(key, "%v is not 100ms to %v", d, most)
		}
		return nil
	}
	if c.TTL < 0 || c.TTL > 24*time.Hour || c.TTL%time.Second != 0 {
		return bad("ttl", "%v is not whole seconds from 0s to 24h", c.TTL)
	}
	if c.MaxUDPSize < 512 || c.MaxUDPSize > 4096 {
		return bad("max-udp-size", "%d is not 512 to 4096", c.MaxUDPSize)
	}
	if c.TCPConnections < 1 || c.TCPConnections > 65536 {
		return bad("tcp-connections", "%d is not 1 to 65536", c.TCPConnections)
	}
	if c.TCPQueries < 1 {
		return bad("tcp-queries", "%d is not 1 or more", c.TCPQueries)
	}
	if err := errors.Join(within("tcp-idle", c.TCPIdle, time.Hour), within("tcp-message", c.TCPMessage, time.Hour)); err != nil {
		return err
	}
	if len(c.Zones) > maxZones {
		return bad("zones", "%d are more than %d", len(c.Zones), maxZones)
	}
	seen := map[string]bool{}
	for i, z := range c.Zones {
		key := fmt.Sprintf("zones[%d]", i)
		if _, ok := mdns.IsDomainName(z.Name); !ok || z.Name == "" {
			return bad(key+".name", "%q is no DNS name", z.Name)
		}
		if k := mdns.CanonicalName(z.Name); seen[k] {
			return bad(key+".name", "%s is given twice", z.Name)
		} else {
			seen[k] = true
		}
		if _, err := z.load(); err != nil {
			return bad(key+".file", "%w", err)
		}
	}
	return nil
}
