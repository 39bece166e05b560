using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The client's eventfds by interrupt index and vector: one to trigger it, and two that tell of its masking. A vector has a lock of its own, so that a trigger never meets a descriptor that
/// is being closed, and none is signalled any more when the client's request to take it away is answered.
/// <para>
/// The client shares the eventfds and can fill one and make it blocking at any time, and no system call writes to an eventfd without
/// waiting whatever its flags. So who signals says so, and somebody else looks now and then whether he hangs: the full eventfd is emptied,
/// none is signalled any more, and the client's connection ends.
/// </para>
/// </summary>
internal sealed class InterruptTable : IDisposable
{
    /// <summary>How often to look: how long a client can hold up a thread of the device, once. Own choice.</summary>
    private static readonly TimeSpan WatchPeriod = TimeSpan.FromMilliseconds(250);

    private readonly Vector[][] _indices;
    private readonly TimeProvider _clock;
    private readonly Action<string> _onBlocked;
    private ITimer? _watch; // from the first eventfd on; the session's thread makes and disposes it
    private volatile bool _blocked;

    /// <summary>Makes the table of a device, with nobody listening.</summary>
    /// <param name="description">The device's.</param>
    /// <param name="clock">For looking whether somebody hangs.</param>
    /// <param name="onBlocked">Ends the connection of a client that makes who signals wait. Any thread.</param>
    public InterruptTable(DeviceDescription description, TimeProvider clock, Action<string> onBlocked)
    {
        _clock = clock;
        _onBlocked = onBlocked;
        _indices = new Vector[CountIndices(description)][];
        for (int i = 0; i < _indices.Length; i++)
        {
            int count = description.Irqs.GetValueOrDefault(i);
            ArgumentOutOfRangeException.ThrowIfNegative(count);
            ArgumentOutOfRangeException.ThrowIfGreaterThan(count, WireLimits.MaxVectors);
            _indices[i] = new Vector[count];
            for (int vector = 0; vector < count; vector++)
                _indices[i][vector] = new Vector(this);
        }
    }

    /// <summary>Interrupt indices of the device: those of PCI at least.</summary>
    public int IndexCount => _indices.Length;

    /// <summary>Vectors of an index that exists.</summary>
    public int VectorCount(int index) => _indices[index].Length;

    /// <summary>Signals, if there is something to signal; while masked remembers to.</summary>
    public void Trigger(int index, int vector)
    {
        if ((uint)index < (uint)_indices.Length && (uint)vector < (uint)_indices[index].Length)
            _indices[index][vector].Trigger();
    }

    /// <summary>Says whether a level-triggered vector is asserted. Signalled once until the client unmasks it.</summary>
    public void SetLevel(int index, int vector, bool asserted)
    {
        if ((uint)vector < (uint)_indices[index].Length)
            _indices[index][vector].SetLevel(asserted);
    }

    /// <summary>Sets or takes away (null) a vector's eventfd, which is this table's from now on.</summary>
    public void Set(int index, int vector, EventFd? fd)
    {
        if (fd is not null)
            _watch ??= _clock.CreateTimer(static state => ((InterruptTable)state!).Watch(), this, WatchPeriod, WatchPeriod);
        _indices[index][vector].Set(fd);
    }

    /// <summary>
    /// Sets or takes away (null) the eventfd, this table's from now on, that is signalled when a vector is masked or unmasked, by the client or by itself
    /// (specification, "VFIO_USER_DEVICE_SET_IRQS"). The kernel's VFIO has it the other way round, for KVM: a client that signals what it gave for the unmasking of
    /// INTx ends the masking that INTx did itself (linux/vfio.h, VFIO_IRQ_SET_ACTION_UNMASK). Both hold here: the server's own signal, taken for the client's, does
    /// at most tell of a level again that is still asserted.
    /// </summary>
    /// <returns>Why not, when the process has no descriptor left.</returns>
    public Errno SetMaskEvent(int index, int vector, bool masked, EventFd? fd)
    {
        Vector target = _indices[index][vector];
        EventFdThread? listener = null;
        if (fd is not null)
        {
            _watch ??= _clock.CreateTimer(static state => ((InterruptTable)state!).Watch(), this, WatchPeriod, WatchPeriod);
            try
            {
                if (!masked && index == PciIrq.Intx)
                    listener = EventFdThread.Start("vfio-user unmask", [fd], target.EndSelfMask);
            }
            catch (LinuxException e)
            {
                fd.Dispose();
                return e.Errno;
            }
        }
        target.SetMaskEvent(masked, fd, listener);
        return Errno.None;
    }

    /// <summary>Masks or unmasks a vector; a trigger meanwhile is signalled on unmasking.</summary>
    public void Mask(int index, int vector, bool masked) => _indices[index][vector].Mask(masked);

    /// <summary>Takes all eventfds of an index away and unmasks it.</summary>
    public void Disable(int index)
    {
        foreach (Vector vector in _indices[index])
            vector.Reset();
    }

    /// <summary>Takes all eventfds away and stops looking after them; none may be set afterwards.</summary>
    public void Dispose()
    {
        for (int i = 0; i < _indices.Length; i++)
            Disable(i);
        _watch?.Dispose();
    }

    private void Watch()
    {
        for (int index = 0; index < _indices.Length; index++)
        {
            for (int vector = 0; vector < _indices[index].Length; vector++)
            {
                if (!_indices[index][vector].EmptyIfStuck())
                    continue;
                _blocked = true;
                _onBlocked($"the client has filled the eventfd of vector {vector} of interrupt index {index} and made it blocking");
            }
        }
    }

    private static int CountIndices(DeviceDescription description)
    {
        int count = PciIrq.Count;
        foreach (int index in description.Irqs.Keys)
            count = Math.Max(count, index + 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, WireLimits.MaxIrqs);
        return count;
    }

    private sealed class Vector(InterruptTable owner)
    {
        private readonly Lock _gate = new();
        private EventFd? _fd;
        private EventFd? _onMask;
        private EventFd? _onUnmask;
        private EventFdThread? _listener; // to _onUnmask; of the session's thread, not under the lock, which it takes
        private bool _masked; // by the client
        private bool _autoMasked; // by a level that was signalled (vfio.h, VFIO_IRQ_INFO_AUTOMASKED)
        private bool _pending;
        private bool _asserted;
        private volatile EventFd? _signalling; // being written to now

        public void Trigger()
        {
            lock (_gate)
            {
                if (_masked)
                    _pending = true;
                else
                    Signal(_fd);
            }
        }

        public void SetLevel(bool asserted)
        {
            lock (_gate)
            {
                _asserted = asserted;
                SignalLevel();
            }
        }

        public void Set(EventFd? fd)
        {
            lock (_gate)
            {
                _fd?.Dispose();
                _fd = fd;
                _autoMasked = false; // who listens from now on has not been told
                SignalLevel();
            }
        }

        public void Mask(bool masked)
        {
            lock (_gate)
            {
                bool before = _masked || _autoMasked;
                _masked = masked;
                if (masked)
                {
                    if (!before)
                        Signal(_onMask);
                    return;
                }
                _autoMasked = false;
                if (before)
                    Signal(_onUnmask);
                if (_pending)
                    Signal(_fd);
                else
                    SignalLevel();
                _pending = false;
            }
        }

        public void SetMaskEvent(bool masked, EventFd? fd, EventFdThread? listener)
        {
            if (!masked)
            {
                _listener?.Dispose();
                _listener = listener;
            }
            lock (_gate)
            {
                ref EventFd? place = ref masked ? ref _onMask : ref _onUnmask;
                place?.Dispose();
                place = fd;
            }
        }

        /// <summary>The client has dealt with the level: tells of it again if it is still asserted.</summary>
        public void EndSelfMask()
        {
            lock (_gate)
            {
                if (!_autoMasked)
                    return;
                _autoMasked = false;
                SignalLevel();
            }
        }

        public void Reset()
        {
            _listener?.Dispose();
            _listener = null;
            lock (_gate)
            {
                _fd?.Dispose();
                _fd = null;
                _onMask?.Dispose();
                _onMask = null;
                _onUnmask?.Dispose();
                _onUnmask = null;
                _masked = false;
                _autoMasked = false;
                _pending = false;
            }
        }

        /// <summary>Releases who hangs in a signal, without the lock that he holds. False when nobody does.</summary>
        public bool EmptyIfStuck()
        {
            try
            {
                return _signalling?.EmptyIfFull() ?? false;
            }
            catch (ObjectDisposedException)
            {
                return false; // no longer in use, so nobody hangs in it
            }
        }

        private void SignalLevel()
        {
            if (!_asserted || _masked || _autoMasked || _fd is null)
                return;
            _autoMasked = true;
            Signal(_fd);
            Signal(_onMask);
        }

        /// <summary>Under the lock.</summary>
        private void Signal(EventFd? fd)
        {
            if (fd is null || owner._blocked)
                return;
            _signalling = fd;
            fd.Signal();
            _signalling = null;
        }
    }
}
