using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The client's eventfds by interrupt index and vector. A vector has a lock of its own, so that a trigger never meets a descriptor that
/// is being closed, and none is signalled any more when the client's request to take it away is answered.
/// </summary>
internal sealed class InterruptTable
{
    private readonly Vector[][] _indices;

    public InterruptTable(DeviceDescription description)
    {
        _indices = new Vector[CountIndices(description)][];
        for (int i = 0; i < _indices.Length; i++)
        {
            int count = description.Irqs.GetValueOrDefault(i);
            ArgumentOutOfRangeException.ThrowIfNegative(count);
            ArgumentOutOfRangeException.ThrowIfGreaterThan(count, WireLimits.MaxVectors);
            _indices[i] = new Vector[count];
            for (int vector = 0; vector < count; vector++)
                _indices[i][vector] = new Vector();
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
    public void Set(int index, int vector, EventFd? fd) => _indices[index][vector].Set(fd);

    /// <summary>Masks or unmasks a vector; a trigger meanwhile is signalled on unmasking.</summary>
    public void Mask(int index, int vector, bool masked) => _indices[index][vector].Mask(masked);

    /// <summary>Takes all eventfds of an index away and unmasks it.</summary>
    public void Disable(int index)
    {
        foreach (Vector vector in _indices[index])
            vector.Reset();
    }

    /// <summary>Takes all eventfds away.</summary>
    public void Clear()
    {
        for (int i = 0; i < _indices.Length; i++)
            Disable(i);
    }

    private static int CountIndices(DeviceDescription description)
    {
        int count = PciIrq.Count;
        foreach (int index in description.Irqs.Keys)
            count = Math.Max(count, index + 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, WireLimits.MaxIrqs);
        return count;
    }

    private sealed class Vector
    {
        private readonly Lock _gate = new();
        private EventFd? _fd;
        private bool _masked; // by the client
        private bool _autoMasked; // by a level that was signalled (vfio.h, VFIO_IRQ_INFO_AUTOMASKED)
        private bool _pending;
        private bool _asserted;

        public void Trigger()
        {
            lock (_gate)
            {
                if (_masked)
                    _pending = true;
                else
                    _fd?.Signal();
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
                _masked = masked;
                if (masked)
                    return;
                _autoMasked = false;
                if (_pending)
                    _fd?.Signal();
                else
                    SignalLevel();
                _pending = false;
            }
        }

        public void Reset()
        {
            lock (_gate)
            {
                _fd?.Dispose();
                _fd = null;
                _masked = false;
                _autoMasked = false;
                _pending = false;
            }
        }

        private void SignalLevel()
        {
            if (!_asserted || _masked || _autoMasked || _fd is null)
                return;
            _autoMasked = true;
            _fd.Signal();
        }
    }
}
