using System.Diagnostics;
using Godwit.Memory;

namespace Godwit.Migration.Bench;

/// <summary>A machine that is nothing but RAM, and a log of DMA that nobody does, which tells when the machine is left alone again.</summary>
internal sealed class IdleMachine : IMigrationHost, IDirtyTracker, IDisposable
{
    public IdleMachine(ulong bytes) => Ram.Add("main", bytes);

    /// <summary>When a migration last let go of the machine (<see cref="Stopwatch.GetTimestamp"/>).</summary>
    public long TakenBackAt { get; private set; }

    public string Id => "none";

    public GuestRam Ram { get; } = new();

    public IReadOnlyList<IDirtyTracker> DirtyTrackers => [this];

    public IReadOnlyList<IMigratableDevice> Devices => [];

    public IReadOnlyList<IStateParticipant> States => [];

    public bool IsRunning => true;

    public RamBlock Block => Ram.Blocks[0];

    public MachineDescription Describe() => new([]);

    public IReadOnlyList<MigrationBlocker> QueryBlockers() => [];

    public IReadOnlyList<MigrationBlocker> QueryHandoverBlockers() => [];

    /// <summary>Every page gets contents that no compression or zero detection can shorten.</summary>
    public void FillWithRandom(int seed)
    {
        var random = new Random(seed);
        byte[] chunk = new byte[1 << 20];
        for (ulong offset = 0; offset < Block.Size; offset += (ulong)chunk.Length)
        {
            random.NextBytes(chunk);
            Block.Write(offset, chunk, DirtySource.Vmm);
        }
    }

    /// <summary>Every page is there, written, and zero.</summary>
    public void FillWithZeros()
    {
        byte[] chunk = new byte[1 << 20];
        for (ulong offset = 0; offset < Block.Size; offset += (ulong)chunk.Length)
            Block.Write(offset, chunk, DirtySource.Vmm);
    }

    public void StopForSwitchover()
    {
    }

    public void ThrottleVcpus(int percent)
    {
    }

    public void ResumeAfterFailure()
    {
    }

    public void EnterPostMigrate()
    {
    }

    public void StartAfterLoad(bool running)
    {
    }

    public void Start()
    {
    }

    public DirtySyncReport Sync(bool final) => default;

    public void Stop() => TakenBackAt = Stopwatch.GetTimestamp();

    public void Dispose() => Ram.Dispose();
}
