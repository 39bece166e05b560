using System.Security.Cryptography;

namespace Godwit.Migration.Tests;

/// <summary>
/// A device that keeps VFIO's state machine strictly: a call in a state that does not allow it throws. Its state is a blob; part of it goes
/// out in pre-copy.
/// </summary>
internal sealed class FakeDevice(string id, Journal journal) : IMigratableDevice
{
    private readonly MemoryStream _loaded = new();
    private int _sent;
    private string _state = "running";

    public string Id => id;

    public byte[] State { get; set; } = RandomNumberGenerator.GetBytes(300_000);

    /// <summary>Bytes that are offered while the guest runs; the rest when stopped.</summary>
    public int Precopy { get; set; } = 100_000;

    public ulong? Pending { get; set; } = 200_000;

    /// <summary>Pending is what has not been read yet, instead of a number.</summary>
    public bool CountsPending { get; set; }

    /// <summary>Called with the bytes of each chunk that it takes.</summary>
    public Action<int>? Taking { get; set; }

    public byte[] Loaded => _loaded.ToArray();

    /// <summary>Called whenever somebody asks for the state.</summary>
    public Action? Asked { get; set; }

    public string StateName
    {
        get
        {
            Asked?.Invoke();
            return _state;
        }
    }

    public event Action<IMigratableDevice>? StateChanged;

    public ulong? PendingBytes => CountsPending ? (ulong)(State.Length - _sent) : Pending;

    public void MakeStopped() => _state = "stop";

    public void Restart() => _state = "running";

    public void BeginSave()
    {
        journal.Add($"{id}.BeginSave");
        Expect("running", "stop");
        Was = _state;
        if (_state == "running")
            Go("pre-copy");
        _sent = 0;
    }

    public string Was { get; private set; } = "running";

    public int ReadState(Span<byte> buffer)
    {
        Expect("pre-copy", "stop-copy", "stop");
        int end = _state == "stop-copy" ? State.Length : _state == "pre-copy" ? Precopy : 0;
        int count = Math.Min(buffer.Length, Math.Max(0, end - _sent));
        State.AsSpan(_sent, count).CopyTo(buffer);
        _sent += count;
        if (_state == "stop-copy" && count == 0)
            journal.Add($"{id}.ReadState(end)");
        return count;
    }

    public void Quiesce()
    {
        journal.Add($"{id}.Quiesce");
        Expect("pre-copy", "stop");
        if (_state == "pre-copy")
            Go("pre-copy-p2p");
    }

    public void StopAndCopy()
    {
        journal.Add($"{id}.StopAndCopy");
        Expect("pre-copy-p2p", "stop");
        Go("stop-copy");
    }

    public void EndSave()
    {
        journal.Add($"{id}.EndSave");
        Expect("stop-copy");
        Go("stop");
    }

    public void Recover()
    {
        journal.Add($"{id}.Recover");
        Go(Was);
    }

    /// <summary>What it says that its own state took.</summary>
    public DeviceRehearsal? Rehearsal { get; set; } = default(DeviceRehearsal);

    /// <summary>What it says before that, turn by turn.</summary>
    public Queue<DeviceRehearsal> Rehearsals { get; } = new();

    public DeviceRehearsal? Rehearse()
    {
        journal.Add($"{id}.Rehearse");
        Expect("running", "stop");
        return Rehearsals.TryDequeue(out DeviceRehearsal first) ? first : Rehearsal;
    }

    public void BeginLoad()
    {
        journal.Add($"{id}.BeginLoad");
        Go("resuming");
    }

    public void WriteState(ReadOnlySpan<byte> chunk)
    {
        if (_loaded.Length == 0)
            journal.Add($"{id}.WriteState(first)");
        Expect("resuming");
        Taking?.Invoke(chunk.Length);
        _loaded.Write(chunk);
    }

    public void EndLoad()
    {
        journal.Add($"{id}.EndLoad");
        Expect("resuming");
        Go("stop");
    }

    public void Start(StartPhase phase)
    {
        journal.Add($"{id}.Start({phase})");
        Expect(phase == StartPhase.PeerToPeer ? "stop" : "running-p2p");
        Go(phase == StartPhase.PeerToPeer ? "running-p2p" : "running");
    }

    private void Expect(params string[] states)
    {
        if (!states.Contains(_state))
            throw new InvalidOperationException($"{id} is in {_state}, not in {string.Join(" or ", states)}");
    }

    private void Go(string state)
    {
        _state = state;
        StateChanged?.Invoke(this);
    }
}

/// <summary>A tracker over pages written "by DMA": a thread-safe set that each sync moves into the dirty log.</summary>
internal sealed class FakeTracker(string id, Journal journal, Memory.GuestRam ram) : IDirtyTracker
{
    private readonly Lock _gate = new();
    private readonly HashSet<ulong> _written = [];
    private bool _armed;

    public string Id => id;

    public void Start()
    {
        journal.Add($"{id}.Start");
        lock (_gate)
            _armed = true;
    }

    public DirtySyncReport Sync(bool final)
    {
        journal.Add(final ? $"{id}.Sync(final)" : $"{id}.Sync");
        lock (_gate)
        {
            Assert.True(_armed, $"{id} is not armed");
            foreach (ulong page in _written)
                ram.Dirty.Mark(new Memory.RamPage(page), 1, Memory.DirtySource.Device);
            var report = new DirtySyncReport(1, _written.Count, 7);
            _written.Clear();
            return report;
        }
    }

    public void Stop()
    {
        journal.Add($"{id}.Stop");
        lock (_gate)
            _armed = false;
    }

    /// <summary>The device's DMA: writes without telling the VMM, only its own log.</summary>
    public unsafe void Dma(ulong page, ulong value)
    {
        Assert.True(ram.TryResolve(new Memory.RamPage(page), out Memory.RamBlock block, out ulong offset));
        // SAFETY: the page is in the block; the tests keep the RAM alive while devices run.
        Volatile.Write(ref *(ulong*)(block.Pointer + offset + ((value % 512) * 8)), value);
        lock (_gate)
            _written.Add(page);
    }
}

/// <summary>
/// State of a model: a blob. A load of what it has saved itself is noted as "own", not by its name: a destination does that before anything comes.
/// </summary>
internal sealed class FakeState(string id, Journal journal) : IStateParticipant
{
    private static int s_states;

    public string Id => id;

    public int Version { get; set; } = 3;

    public bool LoadsAhead { get; set; }

    public byte[] State { get; set; } = System.Text.Encoding.UTF8.GetBytes($"state of {id}, {Interlocked.Increment(ref s_states)}");

    public byte[]? Loaded { get; private set; }

    public int LoadedVersion { get; private set; }

    public void Save(System.Buffers.IBufferWriter<byte> writer)
    {
        journal.Add($"{id}.Save");
        System.Buffers.BuffersExtensions.Write(writer, State);
    }

    public void Load(int version, ReadOnlySpan<byte> state)
    {
        journal.Add(state.SequenceEqual(State) ? $"{id}.Load(own)" : $"{id}.Load");
        LoadedVersion = version;
        Loaded = state.ToArray();
    }
}
