using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

/// <summary>
/// An <see cref="IDeviceHost"/> over <see cref="GuestMemory"/>: the whole memory is mapped but for <see cref="Holes"/>; pieces may be cut
/// short, memory may be reachable by message only. It notes every access at a time when none may happen.
/// </summary>
internal sealed unsafe class FakeHost(GuestMemory memory) : IDeviceHost
{
    private readonly object _gate = new();
    private readonly Dictionary<(int Index, int Vector), long> _triggers = [];
    private readonly List<string> _violations = [];
    private long _triggerCount;
    private long _accesses;
    private volatile bool _quiet;

    public GuestMemory Memory { get; } = memory;

    /// <summary>Ranges where nothing is mapped.</summary>
    public List<(ulong Start, ulong Length)> Holes { get; } = [];

    /// <summary>Longest piece that is handed out; 0: none, as if the client wanted messages.</summary>
    public int PieceLimit { get; set; } = int.MaxValue;

    /// <summary>Called before a piece is handed out, on the device's thread.</summary>
    public Action<ulong>? BeforeAcquire { get; set; }

    /// <summary>Set while the device must be quiet.</summary>
    public bool Quiet
    {
        get => _quiet;
        set => _quiet = value;
    }

    /// <summary>DMA accesses so far.</summary>
    public long Accesses => Interlocked.Read(ref _accesses);

    public IReadOnlyList<string> Violations
    {
        get
        {
            lock (_gate)
                return [.. _violations];
        }
    }

    public bool Read(DmaAddress address, Span<byte> destination)
    {
        if (!Enter("read", address.Value, destination.Length))
            return false;
        Memory.Span(address.Value, destination.Length).CopyTo(destination);
        return true;
    }

    public bool Write(DmaAddress address, ReadOnlySpan<byte> data)
    {
        if (!Enter("write", address.Value, data.Length))
            return false;
        data.CopyTo(Memory.Span(address.Value, data.Length));
        return true;
    }

    public bool TryAcquire(DmaAddress address, int length, bool forWrite, out DmaPiece piece)
    {
        piece = default;
        BeforeAcquire?.Invoke(address.Value);
        int cut = Math.Min(length, PieceLimit);
        if (cut <= 0 || !Enter("acquire", address.Value, cut))
            return false;
        piece = new DmaPiece(Memory.Pointer(address.Value), cut);
        return true;
    }

    public void Trigger(int index, int vector)
    {
        lock (_gate)
        {
            if (Quiet)
                _violations.Add($"trigger {index}/{vector}");
            _triggers[(index, vector)] = _triggers.GetValueOrDefault((index, vector)) + 1;
            _triggerCount++;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>The pin as the device drives it.</summary>
    public bool Pin { get; private set; }

    public void SetPin(bool asserted)
    {
        lock (_gate)
        {
            if (Quiet && asserted)
                _violations.Add("pin");
            if (asserted && !Pin)
            {
                _triggers[(PciIrq.Intx, 0)] = _triggers.GetValueOrDefault((PciIrq.Intx, 0)) + 1;
                _triggerCount++;
            }
            Pin = asserted;
            Monitor.PulseAll(_gate);
        }
    }

    public long Triggers(int index, int vector)
    {
        lock (_gate)
            return _triggers.GetValueOrDefault((index, vector));
    }

    /// <summary>All triggers so far; to be read before looking for what they announce.</summary>
    public long TriggerCount
    {
        get
        {
            lock (_gate)
                return _triggerCount;
        }
    }

    /// <summary>Waits until there are more triggers than <paramref name="seen"/>.</summary>
    public void WaitForTrigger(long seen)
    {
        long start = TimeProvider.System.GetTimestamp();
        lock (_gate)
        {
            while (_triggerCount <= seen)
            {
                TimeSpan left = TimeSpan.FromSeconds(30) - TimeProvider.System.GetElapsedTime(start);
                Assert.True(left > TimeSpan.Zero && Monitor.Wait(_gate, left), "no interrupt within 30 s");
            }
        }
    }

    private bool Enter(string what, ulong address, int length)
    {
        Interlocked.Increment(ref _accesses);
        if (Quiet)
        {
            lock (_gate)
                _violations.Add($"{what} 0x{address:x}");
        }
        if (!Memory.Contains(address, length))
            return false;
        foreach ((ulong start, ulong size) in Holes)
        {
            if (address < start + size && start < address + (ulong)length)
                return false;
        }
        return true;
    }
}
