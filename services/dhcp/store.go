package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// A store is the lease file: one record per address, written before the ACK that
// it is about leaves (RFC 2131, 2.1 and 3.1). It holds leases and quarantined
// addresses; offers are not worth a write. At most max-leases records per subnet:
// an address has one, and ended ones are dropped at the start.
//
// A commit takes many changes, so that all clients who wait share one disk sync.
// With interval zero every commit is synced. Otherwise a commit only reaches the
// kernel, which survives the end of the process, kill -9 included, and the file is
// synced at most once per interval: a power loss may then leave a file that does
// not open. One goroutine uses a store.
type store struct {
	db       *bbolt.DB
	interval time.Duration
}

var bucket = []byte("leases")

// change is one record to write or, with gone, to delete.
type change struct {
	binding
	gone bool
}

func put(b *binding) change { return change{binding: *b} }

func del(a netip.Addr) change { return change{binding: binding{addr: a}, gone: true} }

// openStore opens or makes dir/leases.db and puts the leases that still run into
// restore. Records that it refuses and ended ones are deleted. A damaged file is an
// error that says what to do, never a panic: the library reads the file through a
// mapping, where damage shows as a panic or a fault.
func openStore(dir string, interval time.Duration, now time.Time, restore func(binding) bool) (st *store, err error) {
	path := filepath.Join(dir, "leases.db")
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			st, err = nil, damaged(path, fmt.Errorf("%v", p))
			if file != nil { // the library lost track of it
				unlock(file)
				file.Close()
			}
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: 2 * time.Second, NoSync: interval > 0, NoStatistics: true, FreelistType: bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			f, err = os.OpenFile(name, flag, mode)
			file = f
			return f, err
		},
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: another process holds the lease file", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, damaged(path, err)
	case err != nil:
		return nil, fmt.Errorf("open lease file: %w", err)
	}
	st = &store{db: db, interval: interval}
	if err := st.load(path, file, now, restore); err != nil {
		db.Close()
		return nil, err
	}
	return st, nil
}

func damaged(path string, cause error) error {
	return fmt.Errorf("open %s: the lease file is damaged (%w); move it away to start without leases", path, cause)
}

func (st *store) load(path string, file *os.File, now time.Time, restore func(binding) bool) error {
	return st.db.Update(func(tx *bbolt.Tx) error {
		if info, err := file.Stat(); err != nil {
			return fmt.Errorf("open lease file: %w", err)
		} else if info.Size() < tx.Size() {
			return damaged(path, fmt.Errorf("%d bytes long, should be %d", info.Size(), tx.Size()))
		}
		bk, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return damaged(path, err)
		}
		var drop [][]byte
		err = bk.ForEach(func(k, v []byte) error {
			b, err := decode(k, v)
			if err != nil {
				return damaged(path, err)
			}
			if b.ended(now) || !restore(b) {
				drop = append(drop, append([]byte(nil), k...))
			}
			return nil
		})
		for _, k := range drop {
			if err == nil {
				err = bk.Delete(k)
			}
		}
		return err
	})
}

// commit writes all changes in order, or none.
func (st *store) commit(changes []change) error {
	err := st.db.Update(func(tx *bbolt.Tx) error {
		bk := tx.Bucket(bucket)
		for _, c := range changes {
			var err error
			if k := c.addr.AsSlice(); c.gone {
				err = bk.Delete(k)
			} else {
				err = bk.Put(k, encode(&c.binding))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write lease file: %w", err)
	}
	return nil
}

// sync makes all commits last.
func (st *store) sync() error {
	if err := st.db.Sync(); err != nil {
		return fmt.Errorf("sync lease file: %w", err)
	}
	return nil
}

func (st *store) close() error {
	err := st.sync()
	if cerr := st.db.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close lease file: %w", cerr)
	}
	return err
}

// A record: version 1, state, end (Unix seconds, 8 bytes), lease (seconds, 4), client key.
const recordHead = 1 + 1 + 8 + 4

func encode(b *binding) []byte {
	v := make([]byte, 0, recordHead+len(b.key))
	v = append(v, 1, byte(b.state))
	v = binary.BigEndian.AppendUint64(v, uint64(b.until.Unix()))
	v = append(v, seconds(b.lease)...)
	return append(v, b.key...)
}

func decode(k, v []byte) (b binding, err error) {
	if len(k) != 4 || len(v) < recordHead || v[0] != 1 {
		return b, fmt.Errorf("record %x is of no known form", k)
	}
	b.addr, _ = netip.AddrFromSlice(k)
	b.state = state(v[1])
	b.until = time.Unix(int64(binary.BigEndian.Uint64(v[2:])), 0)
	b.lease = time.Duration(binary.BigEndian.Uint32(v[10:])) * time.Second
	b.key = string(v[recordHead:])
	if b.state != bound && b.state != declined {
		return b, fmt.Errorf("record %v is of no known state", b.addr)
	}
	return b, nil
}
