using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

/// <summary>
/// A guest with commands in flight over a controller that moves. Buffers are scribbled on when their command has completed, and blocks are
/// rewritten with other data, so that a command that is executed twice, or after its completion, is seen in the data.
/// </summary>
internal sealed class MigratingWorld : IDisposable
{
    private const int BlockSize = 512;
    private const int CommandBlocks = 4;
    private const int Slots = 64;

    private readonly Random _random;
    private readonly string _seed;
    private readonly TempImage _image = new(Slots * CommandBlocks * BlockSize);
    private readonly GuestMemory _memory = new(8 << 20);
    private readonly Dictionary<(int Queue, ushort Id), Flight> _flights = [];
    private readonly Stack<int> _freeSlots = new(Enumerable.Range(0, Slots));
    private readonly byte[][] _disk;
    private readonly ulong[] _buffers;
    private readonly List<NvmeRig> _rigs = [];
    private readonly GuestQueue[] _queues;
    private readonly GuestDriver _driver;
    private NvmeRig _rig;
    private ushort _nextId;
    private long _completed;
    private long _submitted;

    public MigratingWorld(Random random, string seed)
    {
        _random = random;
        _seed = seed;
        _rig = NewRig();
        _driver = _rig.Driver;
        _driver.Enable();
        GuestQueue first = _driver.CreateQueue(1, 16, completionEntries: 5);
        _queues = [first, _driver.CreateQueue(2, 9), _driver.CreateQueue(3, 32, completionEntries: 3), _driver.CreateQueue(4, 16, shared: first)];
        _disk = [.. Enumerable.Range(0, Slots).Select(_ => new byte[CommandBlocks * BlockSize])];
        _buffers = [.. Enumerable.Range(0, Slots).Select(_ => _memory.Allocate(4096))];
    }

    private sealed record Flight(int Slot, bool Write, byte[] Data);

    /// <summary>Submits, rings or consumes.</summary>
    public void Step()
    {
        GuestQueue queue = _queues[_random.Next(_queues.Length)];
        switch (_random.Next(5))
        {
            case 0 or 1 or 2:
                Submit(queue);
                break;
            case 3:
                _driver.RingSubmissions(queue);
                break;
            default:
                Consume(_queues[_random.Next(3)], _random.Next(1, 5));
                break;
        }
    }

    public void CancelInPreCopy()
    {
        _rig.Go(Running, PreCopy);
        Steps();
        _rig.Controller.ReadMigrationData(new byte[_random.Next(1, 100)]);
        if (_random.Next(2) == 0)
        {
            _rig.Go(PreCopy, PreCopyP2P);
            Silently(_rig, Steps);
            _rig.Go(PreCopyP2P, PreCopy);
        }
        Steps();
        _rig.Go(PreCopy, Running);
    }

    public void CancelAfterStop()
    {
        Stop();
        Silently(_rig, () =>
        {
            _rig.Controller.ReadMigrationData(new byte[_random.Next(1, 100)]);
            Steps(); // doorbells of a stopped device are remembered
            _rig.Go(StopCopy, DeviceMigrationState.Stop);
            Steps();
        });
        _rig.Go(DeviceMigrationState.Stop, RunningP2P, Running);
    }

    public void Migrate()
    {
        NvmeRig source = _rig;
        NvmeRig destination = NewRig();
        destination.Host.Quiet = true;
        destination.Go(Running, RunningP2P, DeviceMigrationState.Stop, Resuming);
        Stop(destination);
        source.Host.Quiet = true;
        Transfer(source, destination);
        Assert.Equal(0UL, source.Controller.StopCopySize);
        destination.Go(Resuming, DeviceMigrationState.Stop);
        _rig = destination;
        _driver.Registers = new DirectRegisters(destination.Controller);
        _driver.TriggerCount = () => destination.Host.TriggerCount;
        _driver.WaitForTrigger = destination.Host.WaitForTrigger;
        Steps();
        destination.Host.Quiet = false;
        destination.Go(DeviceMigrationState.Stop, RunningP2P, Running);
        Assert.False(source.Controller.OwnsImage);
        Assert.True(destination.Controller.OwnsImage);
        if (_random.Next(2) == 0)
            source.Go(StopCopy, DeviceMigrationState.Stop);
    }

    /// <summary>Completes everything and compares the disk.</summary>
    public void Finish()
    {
        while (_flights.Count > 0)
        {
            long seen = _driver.TriggerCount();
            foreach (GuestQueue queue in _queues)
                _driver.RingSubmissions(queue);
            int before = _flights.Count;
            for (int i = 0; i < 3; i++)
                Consume(_queues[i], int.MaxValue);
            if (before == _flights.Count)
                _driver.WaitForTrigger(seen);
        }
        Assert.Equal(_submitted, _completed);
        Assert.True(_completed > 100, $"{_seed}: only {_completed} commands");
        for (int i = 0; i < 3; i++)
            Assert.False(_driver.TryReap(_queues[i], out _), _seed);
        byte[] image = File.ReadAllBytes(_image.Path);
        for (int slot = 0; slot < Slots; slot++)
        {
            Assert.True(
                image.AsSpan(slot * CommandBlocks * BlockSize, CommandBlocks * BlockSize).SequenceEqual(_disk[slot]),
                $"{_seed}: disk differs at slot {slot}");
        }
    }

    public void Dispose()
    {
        foreach (NvmeRig rig in _rigs)
            rig.Dispose();
        _memory.Dispose();
        _image.Dispose();
    }

    private NvmeRig NewRig()
    {
        int workers = _random.Next(1, 4);
        var rig = new NvmeRig(o => o with { Workers = workers }, _image, _memory);
        // Commands that take a while, so that stops find some under way.
        int spin = 0;
        rig.Host.BeforeAcquire = _ => Thread.SpinWait((Interlocked.Increment(ref spin) * 7919 % 64) * 100);
        _rigs.Add(rig);
        return rig;
    }

    private void Steps()
    {
        for (int i = _random.Next(4); i > 0; i--)
            Step();
    }

    private static void Silently(NvmeRig rig, Action action)
    {
        rig.Host.Quiet = true;
        action();
        rig.Host.Quiet = false;
    }

    /// <summary>To STOP_COPY by one of the ways, with doorbells on the way; a destination may already take the pre-copy data.</summary>
    private void Stop(NvmeRig? destination = null)
    {
        for (int i = _random.Next(12); i > 0; i--)
            Submit(_queues[_random.Next(_queues.Length)]);
        foreach (GuestQueue queue in _queues)
            _driver.RingSubmissions(queue);
        if (_random.Next(2) == 0)
        {
            _rig.Go(Running, PreCopy);
            Steps();
            if (destination is not null && _random.Next(2) == 0)
                Transfer(_rig, destination);
            _rig.Go(PreCopy, PreCopyP2P);
            Silently(_rig, Steps);
            _rig.Go(PreCopyP2P, StopCopy);
            return;
        }
        _rig.Go(Running, RunningP2P);
        Silently(_rig, Steps);
        _rig.Go(RunningP2P, DeviceMigrationState.Stop);
        Silently(_rig, Steps);
        _rig.Go(DeviceMigrationState.Stop, StopCopy);
    }

    private void Transfer(NvmeRig source, NvmeRig destination)
    {
        byte[] piece = new byte[_random.Next(1, 6000)];
        for (int count; (count = source.Controller.ReadMigrationData(piece)) > 0;)
            Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(piece.AsSpan(0, count)));
    }

    private void Submit(GuestQueue queue)
    {
        if (queue.Full || !_freeSlots.TryPop(out int slot))
            return;
        bool write = _random.Next(2) == 0;
        Span<byte> buffer = _memory.Span(_buffers[slot], CommandBlocks * BlockSize);
        _random.NextBytes(buffer);
        ushort id = _nextId++;
        Assert.True(_flights.TryAdd((queue.Id, id), new Flight(slot, write, write ? buffer.ToArray() : _disk[slot])), _seed);
        _driver.Place(
            queue,
            GuestDriver.Io(write ? NvmOpcode.Write : NvmOpcode.Read, (ulong)(slot * CommandBlocks), CommandBlocks, _buffers[slot]),
            id);
        _submitted++;
        if (_random.Next(3) > 0)
            _driver.RingSubmissions(queue);
    }

    private void Consume(GuestQueue queue, int limit)
    {
        bool any = false;
        for (; limit > 0 && _driver.TryReap(queue, out Cqe completion); limit--)
        {
            any = true;
            if (completion.SubmissionQueue != queue.Id)
                _queues.Single(q => q.Id == completion.SubmissionQueue).KnownHead = completion.SubmissionHead;
            string where = $"{_seed}: {completion}";
            Assert.True(_flights.Remove((completion.SubmissionQueue, completion.Id), out Flight? flight), $"{where} completed twice or was never sent");
            Assert.True(completion.Status == NvmeStatus.Success, where);
            Span<byte> buffer = _memory.Span(_buffers[flight.Slot], CommandBlocks * BlockSize);
            Assert.True(buffer.SequenceEqual(flight.Data), $"{where}: {(flight.Write ? "write buffer changed" : "read wrong data")}");
            if (flight.Write)
                _disk[flight.Slot] = flight.Data;
            buffer.Fill(0xDD);
            _freeSlots.Push(flight.Slot);
            _completed++;
        }
        if (any)
            _driver.RingCompletions(queue);
    }
}
