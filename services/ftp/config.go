package ftp

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"porthole/services"
)

// Config is the service's configuration. The defaults serve a small built-in tree
// to anonymous readers.
type Config struct {
	Root               string        `yaml:"root" doc:"directory to serve; empty serves a small built-in tree from memory (with a data directory and someone who may write: its files)"`
	Banner             string        `yaml:"banner" doc:"text of the greeting; empty names the host"`
	Anonymous          string        `yaml:"anonymous" doc:"what anonymous users may do: read, write or off"`
	Users              []User        `yaml:"users" doc:"named users, each {name, password, write, root, account}"`
	LoginTries         int           `yaml:"login-tries" doc:"wrong passwords before the connection ends"`
	PassivePorts       PortRange     `yaml:"passive-ports" doc:"ports of passive data connections, LOW-HIGH, or any"`
	ActiveFallback     bool          `yaml:"active-fallback" doc:"let active data connections leave from any port when the one below the control port (20) cannot be had"`
	MaxConnections     int           `yaml:"max-connections" doc:"control connections in all; one more gets 421"`
	MaxPerClient       int           `yaml:"max-per-client" doc:"control connections of one client address"`
	LoginTimeout       time.Duration `yaml:"login-timeout" doc:"from the greeting to a good login"`
	IdleTimeout        time.Duration `yaml:"idle-timeout" doc:"without a command and without a transfer (RFC 1123 asks for 5m at least)"`
	DataConnectTimeout time.Duration `yaml:"data-connect-timeout" doc:"for a data connection to come about"`
	DataIdleTimeout    time.Duration `yaml:"data-idle-timeout" doc:"for a transfer that moves no byte; a slow client frees room in large pieces, so give it minutes"`
	CommandsPerSecond  int           `yaml:"commands-per-second" doc:"of one session; faster ones are read more slowly"`
	MaxFileSize        services.Size `yaml:"max-file-size" doc:"of an upload; a longer one gets 552"`
	Memory             services.Size `yaml:"memory" doc:"of all uploads to the built-in tree together; beyond it they get 452"`
}

// User is a named user.
type User struct {
	Name     string `yaml:"name" doc:"login name"`
	Password string `yaml:"password" doc:"its password, in the clear"`
	Write    bool   `yaml:"write" doc:"may upload, rename and delete"`
	Root     string `yaml:"root" doc:"directory of this user's own; empty: the service's"`
	Account  string `yaml:"account" doc:"what ACCT must give after the password; empty asks for none"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Anonymous:          "read",
		Users:              []User{},
		LoginTries:         3,
		PassivePorts:       PortRange{50000, 50999},
		MaxConnections:     512,
		MaxPerClient:       256,
		LoginTimeout:       time.Minute,
		IdleTimeout:        5 * time.Minute,
		DataConnectTimeout: 30 * time.Second,
		DataIdleTimeout:    5 * time.Minute,
		CommandsPerSecond:  10000,
		MaxFileSize:        8 * services.GiB,
		Memory:             256 * services.MiB,
	}
}

// Validate reports the first thing that is wrong, as a *services.ConfigError.
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return &services.ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
	}
	if err := directory(c.Root); err != nil {
		return bad("root", "%w", err)
	}
	if strings.ContainsAny(c.Banner, "\r\n\x00") || len(c.Banner) > 512 {
		return bad("banner", "must be one line of at most 512 bytes")
	}
	switch c.Anonymous {
	case "read", "write", "off":
	default:
		return bad("anonymous", "%q is none of read, write, off", c.Anonymous)
	}
	seen := map[string]bool{}
	for i, u := range c.Users {
		key := fmt.Sprintf("users[%d]", i)
		switch {
		case u.Name == "" || len(u.Name) > 255 || strings.ContainsAny(u.Name, "\r\n\x00"):
			return bad(key+".name", "%q is no login name (1 to 255 bytes, one line)", u.Name)
		case isAnonymous(u.Name):
			return bad(key+".name", "%q is the anonymous user; see anonymous", u.Name)
		case seen[u.Name]:
			return bad(key+".name", "%q is there twice", u.Name)
		case u.Password == "" || strings.ContainsAny(u.Password, "\r\n\x00"):
			return bad(key+".password", "must be one line and not empty")
		case strings.ContainsAny(u.Account, "\r\n\x00"):
			return bad(key+".account", "must be one line")
		}
		seen[u.Name] = true
		if err := directory(u.Root); err != nil {
			return bad(key+".root", "%w", err)
		}
	}
	if p := c.PassivePorts; p != (PortRange{}) && (p.Low < 1024 || p.High < p.Low) {
		return bad("passive-ports", "%v is not LOW-HIGH within 1024 to 65535", p)
	}
	for _, n := range []struct {
		key           string
		v, least, top int
	}{
		{"login-tries", c.LoginTries, 1, 100},
		{"max-connections", c.MaxConnections, 1, 65535},
		{"max-per-client", c.MaxPerClient, 1, 65535},
		{"commands-per-second", c.CommandsPerSecond, 1, 1000000},
	} {
		if n.v < n.least || n.v > n.top {
			return bad(n.key, "%d is not %d to %d", n.v, n.least, n.top)
		}
	}
	for _, d := range []struct {
		key string
		v   time.Duration
	}{
		{"login-timeout", c.LoginTimeout}, {"idle-timeout", c.IdleTimeout},
		{"data-connect-timeout", c.DataConnectTimeout}, {"data-idle-timeout", c.DataIdleTimeout},
	} {
		if d.v <= 0 || d.v > 24*time.Hour {
			return bad(d.key, "%v is not above 0 and at most 24h", d.v)
		}
	}
	if c.MaxFileSize < 1 {
		return bad("max-file-size", "must be at least 1 byte")
	}
	if c.Memory < 1*services.MiB || c.Memory > 64*services.GiB {
		return bad("memory", "%v is not 1MiB to 64GiB", c.Memory)
	}
	return nil
}

func directory(dir string) error {
	if dir == "" {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	return nil
}

// PortRange is LOW-HIGH, or any (the zero value).
type PortRange struct{ Low, High uint16 }

func (r PortRange) String() string {
	if r == (PortRange{}) {
		return "any"
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

// MarshalText gives "50000-50999" or "any".
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText takes what MarshalText gives.
func (r *PortRange) UnmarshalText(b []byte) error {
	if string(b) == "any" {
		*r = PortRange{}
		return nil
	}
	low, high, ok := strings.Cut(string(b), "-")
	l, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	h, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	if !ok || err1 != nil || err2 != nil || l == 0 || h < l {
		return fmt.Errorf("port range %q: want LOW-HIGH, such as 50000-50999, or any", b)
	}
	*r = PortRange{uint16(l), uint16(h)}
	return nil
}

// account is a user who may log in. Passwords are kept as digests of equal length,
// so that comparing them takes the same time whatever was sent.
type account struct {
	name      string
	anonymous bool
	password  [sha256.Size]byte
	acct      string
	write     bool
	fs        fileSystem
}

func isAnonymous(name string) bool {
	return strings.EqualFold(name, "anonymous") || strings.EqualFold(name, "ftp")
}

// openAccounts opens every directory that the configuration names, and the memory
// tree when the service has none. closeAll closes them.
func openAccounts(env *services.Env, cfg *Config) (accounts map[string]*account, closeAll func(), err error) {
	var open []*diskFS
	closeAll = func() {
		for _, d := range open {
			d.root.Close()
		}
	}
	fail := func(err error) (map[string]*account, func(), error) {
		closeAll()
		return nil, nil, err
	}
	disk := func(dir string) (fileSystem, error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("open ftp root: %w", err)
		}
		d := &diskFS{root}
		open = append(open, d)
		return d, nil
	}
	writers := cfg.Anonymous == "write"
	for _, u := range cfg.Users {
		writers = writers || u.Write && u.Root == ""
	}
	dir := cfg.Root
	if dir == "" && env.DataDir != "" && writers {
		// Uploads must survive a restart where the host keeps anything at all.
		dir = filepath.Join(env.DataDir, "files")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fail(fmt.Errorf("make ftp root: %w", err))
		}
	}
	var shared fileSystem
	if dir == "" {
		mem := newMemFS(int64(cfg.Memory), env.Now)
		if err := fillSample(mem, env.Host); err != nil {
			return fail(fmt.Errorf("make built-in tree: %w", err))
		}
		shared = mem
	} else if shared, err = disk(dir); err != nil {
		return fail(err)
	}
	accounts = map[string]*account{}
	if cfg.Anonymous != "off" {
		a := &account{name: "anonymous", anonymous: true, write: cfg.Anonymous == "write", fs: shared}
		accounts["anonymous"], accounts["ftp"] = a, a
	}
	for _, u := range cfg.Users {
		a := &account{name: u.Name, password: sha256.Sum256([]byte(u.Password)), acct: u.Account, write: u.Write, fs: shared}
		if u.Root != "" {
			if a.fs, err = disk(u.Root); err != nil {
				return fail(err)
			}
		}
		accounts[u.Name] = a
	}
	if len(accounts) == 0 {
		env.Log.Warn("nobody can log in", "next", "set anonymous: read, or add users")
	}
	return accounts, closeAll, nil
}

var errTooLarge = errors.New("larger than the largest file accepted here")
