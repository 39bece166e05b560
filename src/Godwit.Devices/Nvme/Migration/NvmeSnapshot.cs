namespace Godwit.Devices;

/// <summary>Everything about a quiet controller that the guest could tell, as plain values.</summary>
internal sealed record NvmeSnapshot
{
    public required uint Configuration { get; init; }

    public required uint AdminQueueAttributes { get; init; }

    public required ulong AdminSubmissionBase { get; init; }

    public required ulong AdminCompletionBase { get; init; }

    public required uint InterruptMask { get; init; }

    public required bool Ready { get; init; }

    public required bool Fatal { get; init; }

    public required ShutdownStatus Shutdown { get; init; }

    public required FeatureSnapshot Features { get; init; }

    public required AsyncEventState Events { get; init; }

    public required HealthCounters Health { get; init; }

    public required byte[] ErrorRing { get; init; }

    /// <summary>By slot; null where there is none.</summary>
    public required SubmissionSnapshot?[] Submissions { get; init; }

    /// <summary>By slot; null where there is none.</summary>
    public required CompletionSnapshot?[] Completions { get; init; }

    public required byte[] PciConfiguration { get; init; }

    public required byte[] MsixTable { get; init; }

    /// <summary>Copies the state out. Workers are quiet.</summary>
    public static NvmeSnapshot Capture(NvmeCore core, PciConfiguration configuration, ReadOnlySpan<byte> msixTable)
    {
        var submissions = new SubmissionSnapshot?[core.Queues.Slots];
        var completions = new CompletionSnapshot?[core.Queues.Slots];
        for (int slot = 0; slot < submissions.Length; slot++)
        {
            if (core.Queues.Submission((uint)slot) is { } sq)
                submissions[slot] = new(sq.Address, sq.Size, sq.Head, sq.Tail, sq.Completion.Id, sq.Priority);
            if (core.Queues.Completion((uint)slot) is { } cq)
                completions[slot] = new(cq.Address, cq.Size, cq.Head, cq.Tail, cq.Vector, cq.Interrupts, cq.Phase);
        }
        (long errors, byte[] ring) = core.Errors.Capture();
        return new NvmeSnapshot
        {
            Configuration = core.Configuration.Value,
            AdminQueueAttributes = core.AdminQueueAttributes,
            AdminSubmissionBase = core.AdminSubmissionBase,
            AdminCompletionBase = core.AdminCompletionBase,
            InterruptMask = core.InterruptMask,
            Ready = core.Ready,
            Fatal = core.Fatal,
            Shutdown = core.Shutdown,
            Features = FeatureSnapshot.Capture(core.Features),
            Events = core.Events.Capture(),
            Health = core.Counters.Health(errors),
            ErrorRing = ring,
            Submissions = submissions,
            Completions = completions,
            PciConfiguration = configuration.Capture(),
            MsixTable = msixTable.ToArray(),
        };
    }

    /// <summary>Puts the state in place of whatever the controller had. It is validated. Workers are quiet.</summary>
    public void Apply(NvmeCore core, PciConfiguration configuration, Span<byte> msixTable)
    {
        core.ResetController();
        core.Configuration = new ControllerConfiguration(Configuration);
        core.AdminQueueAttributes = AdminQueueAttributes;
        core.AdminSubmissionBase = AdminSubmissionBase;
        core.AdminCompletionBase = AdminCompletionBase;
        core.InterruptMask = InterruptMask;
        Features.Apply(core.Features);
        core.Events.Restore(Events);
        core.Counters.Continue(Health);
        core.Errors.Restore(Health.ErrorLogEntries, ErrorRing);
        for (int slot = 0; slot < Completions.Length; slot++)
        {
            if (Completions[slot] is { } cq)
                core.Queues.AddCompletion(slot, cq.Address, cq.Size, cq.Interrupts, cq.Vector).Restore(cq.Head, cq.Tail, cq.Phase);
        }
        for (int slot = 0; slot < Submissions.Length; slot++)
        {
            if (Submissions[slot] is { } sq && core.Queues.Completion((uint)sq.Completion) is { } completion)
                core.Queues.AddSubmission(slot, sq.Address, sq.Size, sq.Priority, completion).Restore(sq.Head, sq.Tail);
        }
        core.RestoreStatus(Ready, Fatal, Shutdown);
        configuration.Restore(PciConfiguration);
        MsixTable.CopyTo(msixTable);
    }
}

/// <summary>A submission queue. What lies between head and tail has not been executed.</summary>
internal sealed record SubmissionSnapshot(ulong Address, uint Size, uint Head, uint Tail, int Completion, byte Priority);

/// <summary>A completion queue.</summary>
internal sealed record CompletionSnapshot(ulong Address, uint Size, uint Head, uint Tail, ushort Vector, bool Interrupts, bool Phase);

/// <summary>Values of the features.</summary>
internal sealed record FeatureSnapshot
{
    public required uint Arbitration { get; init; }

    public required ushort OverTemperature { get; init; }

    public required ushort UnderTemperature { get; init; }

    public required ushort ErrorRecovery { get; init; }

    public required ushort Coalescing { get; init; }

    public required bool WriteCache { get; init; }

    public required bool WriteAtomicityOff { get; init; }

    public required int SubmissionQueues { get; init; }

    public required int CompletionQueues { get; init; }

    public required uint EnabledEvents { get; init; }

    public required bool[] VectorCoalescingOff { get; init; }

    public static FeatureSnapshot Capture(NvmeFeatureValues values) => new()
    {
        Arbitration = values.Arbitration,
        OverTemperature = values.OverTemperature,
        UnderTemperature = values.UnderTemperature,
        ErrorRecovery = values.ErrorRecovery,
        Coalescing = values.Coalescing,
        WriteCache = values.WriteCache,
        WriteAtomicityOff = values.WriteAtomicityOff,
        SubmissionQueues = values.SubmissionQueues,
        CompletionQueues = values.CompletionQueues,
        EnabledEvents = values.EnabledEvents,
        VectorCoalescingOff = (bool[])values.VectorCoalescingOff.Clone(),
    };

    public void Apply(NvmeFeatureValues values)
    {
        values.Arbitration = Arbitration;
        values.OverTemperature = OverTemperature;
        values.UnderTemperature = UnderTemperature;
        values.ErrorRecovery = ErrorRecovery;
        values.Coalescing = Coalescing;
        values.WriteCache = WriteCache;
        values.WriteAtomicityOff = WriteAtomicityOff;
        values.SubmissionQueues = SubmissionQueues;
        values.CompletionQueues = CompletionQueues;
        values.EnabledEvents = EnabledEvents;
        VectorCoalescingOff.CopyTo(values.VectorCoalescingOff, 0);
    }
}
