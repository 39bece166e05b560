namespace Godwit.Devices;

/// <summary>
/// What holds in every state that a controller can be in. A state from a peer that breaks a rule is refused before anything of it is
/// applied; one that keeps them cannot make the controller do more than its own guest could.
/// </summary>
internal static class NvmeStateRules
{
    /// <summary>Checks all rules.</summary>
    /// <exception cref="NvmeStateException">A rule is broken; the message says which.</exception>
    public static void Check(NvmeSnapshot state, NvmeLimits limits)
    {
        var configuration = new ControllerConfiguration(state.Configuration);
        Require((state.Configuration & ~ControllerConfiguration.Mask) == 0, $"CC 0x{state.Configuration:x} has reserved bits");
        CheckFeatures(state.Features, limits);
        Require(state.Events.Masked >> 3 == 0, $"event mask 0x{state.Events.Masked:x} has unknown types");
        foreach (uint value in state.Events.Pending)
            Require((value & 7) <= (uint)AsyncEventType.Notice && value >> 24 == 0, $"event 0x{value:x} is of no known type");

        if (!state.Ready)
        {
            Require(state.Submissions.All(q => q is null) && state.Completions.All(q => q is null), "a controller that is not ready has queues");
            Require(state.Events.Held.Length == 0, "a controller that is not ready holds event requests");
            Require(state.Shutdown != ShutdownStatus.Occurring, "a controller that is not ready is shutting down");
            return;
        }

        Require(configuration.Enabled, "a controller is ready and not enabled");
        Require(
            configuration is { CommandSet: 0, Arbitration: 0, PageShift: <= ControllerRegisters.MaximumPageShift },
            $"a controller is ready with CC 0x{state.Configuration:x}");
        CheckAdminQueues(state);
        for (int slot = 0; slot < limits.QueueSlots; slot++)
        {
            if (state.Submissions[slot] is { } sq)
                CheckSubmission(state, limits, configuration.PageShift, slot, sq);
            if (state.Completions[slot] is { } cq)
                CheckCompletion(state, limits, configuration.PageShift, slot, cq);
        }
    }

    private static void CheckFeatures(FeatureSnapshot features, NvmeLimits limits)
    {
        Require(
            features.SubmissionQueues >= 1 && features.SubmissionQueues <= limits.MaxQueues
            && features.CompletionQueues >= 1 && features.CompletionQueues <= limits.MaxQueues,
            $"{features.SubmissionQueues} submission and {features.CompletionQueues} completion queues are outside 1 to {limits.MaxQueues}");
    }

    private static void CheckAdminQueues(NvmeSnapshot state)
    {
        uint submissions = (state.AdminQueueAttributes & 0xFFF) + 1;
        uint completions = ((state.AdminQueueAttributes >> 16) & 0xFFF) + 1;
        Require(
            state.Submissions[0] is { Completion: 0, Priority: 0 } sq && sq.Address == state.AdminSubmissionBase && sq.Size == submissions,
            "the admin submission queue is not where ASQ and AQA say");
        Require(
            state.Completions[0] is { Interrupts: true, Vector: 0 } cq && cq.Address == state.AdminCompletionBase && cq.Size == completions,
            "the admin completion queue is not where ACQ and AQA say");
    }

    private static void CheckSubmission(NvmeSnapshot state, NvmeLimits limits, int pageShift, int slot, SubmissionSnapshot queue)
    {
        string name = $"submission queue {slot}";
        Require(slot <= state.Features.SubmissionQueues, $"{name} exists, {state.Features.SubmissionQueues} are allowed");
        CheckRing(name, slot, limits, pageShift, queue.Address, queue.Size, queue.Head, queue.Tail, NvmeCommand.SizeShift);
        Require(
            queue.Completion < state.Completions.Length && state.Completions[queue.Completion] is not null && (slot == 0) == (queue.Completion == 0),
            $"{name} uses completion queue {queue.Completion}, which it cannot");
    }

    private static void CheckCompletion(NvmeSnapshot state, NvmeLimits limits, int pageShift, int slot, CompletionSnapshot queue)
    {
        string name = $"completion queue {slot}";
        Require(slot <= state.Features.CompletionQueues, $"{name} exists, {state.Features.CompletionQueues} are allowed");
        CheckRing(name, slot, limits, pageShift, queue.Address, queue.Size, queue.Head, queue.Tail, NvmeCompletion.SizeShift);
        Require(!queue.Interrupts || queue.Vector < limits.Vectors, $"{name} has vector {queue.Vector}, there are {limits.Vectors}");
    }

    private static void CheckRing(
        string name, int slot, NvmeLimits limits, int pageShift, ulong address, uint size, uint head, uint tail, int entryShift)
    {
        uint limit = slot == 0 ? 4096 : (uint)limits.QueueEntries; // AQA has 12 bits
        Require(size >= 2 && size <= limit, $"{name} has {size} entries, outside 2 to {limit}");
        Require(head < size && tail < size, $"{name} has head {head} and tail {tail}, beyond {size} entries");
        ulong mask = (1UL << pageShift) - 1;
        Require(
            (address & mask) == 0 && address <= ulong.MaxValue - (((ulong)size << entryShift) - 1),
            $"{name} lies at 0x{address:x}, which is not page-aligned or wraps");
    }

    private static void Require(bool condition, string broken)
    {
        if (!condition)
            throw new NvmeStateException(broken);
    }
}
