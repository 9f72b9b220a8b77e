package porthole_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/jlaffaye/ftp"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole"
	pftp "porthole/services/ftp"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// Every service of the catalogue, end to end in memory: a client's own stack on
// the other end of a pipe, no privilege.

var families = map[string]netip.Addr{"IPv4": stacktest.Host4.Addr(), "IPv6": stacktest.Host6.Addr()}

// onEveryLink runs body on each kind of link.
func onEveryLink(t *testing.T, edit func(*porthole.Config), body func(t *testing.T, r *rig)) {
	for name, o := range map[string]tun.PipeOptions{
		"plain": {}, "gso": {GSO: true}, "ethernet": {HW: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) { body(t, newRig(t, o, edit)) })
	}
}

func TestHTTPService(t *testing.T) {
	onEveryLink(t, nil, func(t *testing.T, r *rig) {
		for name, host := range families {
			t.Run(name, func(t *testing.T) {
				base := "http://" + netip.AddrPortFrom(host, 80).String()
				resp, err := r.http.Get(base + "/blob/3000000")
				require.NoError(t, err)
				blob, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				resp.Body.Close()
				require.Len(t, blob, 3000000)

				resp, err = r.http.Post(base+"/sink", "application/octet-stream", bytes.NewReader(blob))
				require.NoError(t, err)
				var got struct {
					Bytes  int64
					SHA256 string
				}
				require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
				resp.Body.Close()
				sum := sha256.Sum256(blob)
				require.EqualValues(t, len(blob), got.Bytes)
				require.Equal(t, hex.EncodeToString(sum[:]), got.SHA256)

				req, _ := http.NewRequest("GET", base+"/blob/3000000", nil)
				req.Header.Set("Range", "bytes=2999990-")
				resp, err = r.http.Do(req)
				require.NoError(t, err)
				part, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, 206, resp.StatusCode)
				require.Equal(t, blob[2999990:], part)
			})
		}
	})
}

func TestDNSService(t *testing.T) {
	onEveryLink(t, nil, func(t *testing.T, r *rig) {
		for name, host := range families {
			for _, network := range []string{"udp", "tcp"} {
				t.Run(name+"/"+network, func(t *testing.T) {
					ask := func(q string, typ uint16) *dns.Msg {
						ctx, cancel := context.WithTimeout(context.Background(), patience)
						defer cancel()
						c, err := r.client.DialContext(ctx, network, netip.AddrPortFrom(host, 53).String())
						require.NoError(t, err)
						m := new(dns.Msg)
						m.SetQuestion(q, typ)
						// A PacketConn is what tells the library to write datagrams.
						reply, _, err := (&dns.Client{Net: network, Timeout: patience}).
							ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: c})
						require.NoError(t, err)
						c.Close()
						return reply
					}
					a := ask("porthole.test.", dns.TypeA)
					require.Equal(t, dns.RcodeSuccess, a.Rcode)
					require.Equal(t, "10.77.0.1", a.Answer[0].(*dns.A).A.String())
					ptr := ask("1.0.77.10.in-addr.arpa.", dns.TypePTR)
					require.Equal(t, "porthole.porthole.test.", ptr.Answer[0].(*dns.PTR).Ptr)
					require.Equal(t, dns.RcodeNameError, ask("nobody.porthole.test.", dns.TypeA).Rcode)
					require.Equal(t, dns.RcodeRefused, ask("example.com.", dns.TypeA).Rcode)
				})
			}
		}
	})
}

func TestFTPService(t *testing.T) {
	writable := func(c *porthole.Config) {
		o := c.Services["ftp"].Options.(*pftp.Config)
		o.Users = []pftp.User{{Name: "ann", Password: "secret", Write: true}}
	}
	onEveryLink(t, writable, func(t *testing.T, r *rig) {
		for name, host := range families {
			t.Run(name, func(t *testing.T) {
				dial := func(network, address string) (net.Conn, error) {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					return r.client.DialContext(ctx, network, address)
				}
				c, err := ftp.Dial(netip.AddrPortFrom(host, 21).String(), ftp.DialWithDialFunc(dial))
				require.NoError(t, err)
				require.NoError(t, c.Login("ann", "secret"))
				data := bytes.Repeat([]byte("a port is a queue\r\n"), 100000)
				file := "/up-" + name
				require.NoError(t, c.Stor(file, bytes.NewReader(data)))
				resp, err := c.Retr(file)
				require.NoError(t, err)
				got, err := io.ReadAll(resp)
				require.NoError(t, err)
				require.NoError(t, resp.Close())
				require.True(t, bytes.Equal(data, got))
				list, err := c.List("/")
				require.NoError(t, err)
				require.NotEmpty(t, list)
				require.NoError(t, c.Delete(file))
				require.NoError(t, c.Quit())
			})
		}
	})
}

// TestFTPActive: the data connection comes from port 20 of the host, again and
// again while its last ones are in TIME-WAIT, and port 20 is the service's in the table.
func TestFTPActive(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := r.client.DialContext(ctx, "tcp", "10.77.0.1:21")
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	lines := newLines(c)
	lines.expect(t, "220")
	lines.send(t, "USER anonymous", "331")
	lines.send(t, "PASS me@", "230")
	lines.send(t, "TYPE I", "200")
	for i := range 5 {
		ln, err := r.client.Listen(uint16(6000+i), stack.ListenConfig{Owner: "ftp client"})
		require.NoError(t, err)
		lines.send(t, fmt.Sprintf("PORT 10,77,0,2,%d,%d", (6000+i)/256, (6000+i)%256), "200")
		lines.send(t, "RETR README.txt", "150")
		data, err := ln.Accept()
		require.NoError(t, err)
		require.Equal(t, 20, data.RemoteAddr().(*net.TCPAddr).Port)
		found := false
		for _, p := range r.host.Ports() {
			found = found || p.Port.Number == 20 && p.Service == "ftp"
		}
		require.True(t, found, "port 20 is not in the table")
		b, err := io.ReadAll(data)
		require.NoError(t, err)
		require.NotEmpty(t, b)
		data.Close()
		lines.expect(t, "226")
		ln.Close()
	}
}

func TestEchoAndDiscardServices(t *testing.T) {
	onEveryLink(t, nil, func(t *testing.T, r *rig) {
		for _, host := range families {
			for _, network := range []string{"tcp", "udp"} {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				c, err := r.client.DialContext(ctx, network, netip.AddrPortFrom(host, 7).String())
				require.NoError(t, err)
				require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
				_, err = c.Write([]byte("hello"))
				require.NoError(t, err)
				b := make([]byte, 5)
				_, err = io.ReadFull(c, b)
				require.NoError(t, err)
				require.Equal(t, "hello", string(b))
				c.Close()
				c, err = r.client.DialContext(ctx, network, netip.AddrPortFrom(host, 9).String())
				require.NoError(t, err)
				_, err = c.Write([]byte("nothing comes back"))
				require.NoError(t, err)
				c.Close()
			}
		}
	})
}

// TestDHCPService asks through a relay agent: the client's stack, which has an
// address, unlike most DHCP clients.
func TestDHCPService(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	pc, err := r.client.ListenPacket(67, stack.PacketConfig{Owner: "relay"})
	require.NoError(t, err)
	defer pc.Close()
	require.NoError(t, pc.SetDeadline(time.Now().Add(patience)))
	hw := net.HardwareAddr{2, 0, 0, byte(rand.IntN(256)), 0, 9}
	ask := func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		m.GatewayIPAddr = net.IPv4(10, 77, 0, 2)
		m.HopCount = 1
		_, err := pc.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 67})
		require.NoError(t, err)
		b := make([]byte, 1500)
		n, _, err := pc.ReadFrom(b)
		require.NoError(t, err)
		reply, err := dhcpv4.FromBytes(b[:n])
		require.NoError(t, err)
		require.Equal(t, m.TransactionID, reply.TransactionID)
		return reply
	}
	m, err := dhcpv4.NewDiscovery(hw)
	require.NoError(t, err)
	offer := ask(m)
	require.Equal(t, dhcpv4.MessageTypeOffer, offer.MessageType())
	m, err = dhcpv4.NewRequestFromOffer(offer)
	require.NoError(t, err)
	ack := ask(m)
	require.Equal(t, dhcpv4.MessageTypeAck, ack.MessageType())
	require.Equal(t, offer.YourIPAddr.String(), ack.YourIPAddr.String())
	require.Equal(t, "10.77.0.2", ack.Router()[0].String()) // the relay, as of default
}
