using System.Buffers.Binary;

namespace Godwit.Devices;

/// <summary>The admin command set (NVM Express Base 1.4, section 5). One worker at a time.</summary>
internal sealed class AdminCommands(NvmeCore core)
{
    private readonly NvmeLimits _limits = core.Limits;

    /// <summary>Executes an admin command to its end, or holds it (<see cref="CommandContext.Held"/>).</summary>
    public NvmeStatus Execute(in NvmeCommand command, CommandContext context)
    {
        Interlocked.Increment(ref core.Counters.AdminCommands);
        if (command.Fused != 0 || command.DataTransferKind != 0)
            return NvmeStatus.InvalidField;
        switch ((AdminOpcode)command.Opcode)
        {
            case AdminOpcode.Identify:
                return Identify(command, context);
            case AdminOpcode.CreateCompletionQueue:
                return CreateCompletionQueue(command);
            case AdminOpcode.CreateSubmissionQueue:
                return CreateSubmissionQueue(command);
            case AdminOpcode.DeleteSubmissionQueue:
                return DeleteSubmissionQueue(command);
            case AdminOpcode.DeleteCompletionQueue:
                return DeleteCompletionQueue(command);
            case AdminOpcode.GetFeatures:
                return GetFeatures(command, context);
            case AdminOpcode.SetFeatures:
                return SetFeatures(command, context);
            case AdminOpcode.GetLogPage:
                return GetLogPage(command, context);
            case AdminOpcode.Abort:
                return Abort(command, context);
            case AdminOpcode.AsyncEventRequest:
                NvmeStatus status = core.Events.Hold(command.Id);
                context.Held = status == NvmeStatus.Success;
                return status;
            default:
                return NvmeStatus.InvalidOpcode;
        }
    }

    /// <summary>5.15.</summary>
    private NvmeStatus Identify(in NvmeCommand command, CommandContext context)
    {
        Span<byte> data = context.Page;
        data.Clear();
        uint id = command.Namespace;
        switch (command.Dword10 & 0xFF)
        {
            case 0x00:
                if (id != IdentifyData.NamespaceId)
                    return NvmeStatus.InvalidNamespace;
                IdentifyData.Namespace(data, _limits);
                break;
            case 0x01:
                IdentifyData.Controller(data, _limits, core.Identity);
                break;
            case 0x02: // active namespace ids above NSID
                if (id >= 0xFFFF_FFFE)
                    return NvmeStatus.InvalidNamespace;
                if (id < IdentifyData.NamespaceId)
                    BinaryPrimitives.WriteUInt32LittleEndian(data, IdentifyData.NamespaceId);
                break;
            case 0x03:
                if (id != IdentifyData.NamespaceId)
                    return NvmeStatus.InvalidNamespace;
                IdentifyData.NamespaceDescriptors(data, core.Identity);
                break;
            default:
                return NvmeStatus.InvalidField;
        }
        return Send(command, context, data, IdentifyData.Size);
    }

    /// <summary>5.3.</summary>
    private NvmeStatus CreateCompletionQueue(in NvmeCommand command)
    {
        uint id = command.Dword10 & 0xFFFF;
        uint size = (command.Dword10 >> 16) + 1;
        bool contiguous = (command.Dword11 & 1) != 0;
        bool interrupts = (command.Dword11 & 2) != 0;
        ushort vector = (ushort)(command.Dword11 >> 16);
        if (id == 0 || id > (uint)core.Features.CompletionQueues || core.Queues.Completion(id) is not null)
            return NvmeStatus.InvalidQueueIdentifier;
        NvmeStatus status = CheckQueueMemory(command.Prp1, size, NvmeCompletion.SizeShift, contiguous, core.Configuration.CompletionEntryShift);
        if (status != NvmeStatus.Success)
            return status;
        if (interrupts && vector >= _limits.Vectors)
            return NvmeStatus.InvalidInterruptVector;
        core.Queues.AddCompletion((int)id, command.Prp1, size, interrupts, vector);
        return NvmeStatus.Success;
    }

    /// <summary>5.4.</summary>
    private NvmeStatus CreateSubmissionQueue(in NvmeCommand command)
    {
        uint id = command.Dword10 & 0xFFFF;
        uint size = (command.Dword10 >> 16) + 1;
        bool contiguous = (command.Dword11 & 1) != 0;
        byte priority = (byte)((command.Dword11 >> 1) & 3);
        uint completionId = command.Dword11 >> 16;
        if (id == 0 || id > (uint)core.Features.SubmissionQueues || core.Queues.Submission(id) is not null)
            return NvmeStatus.InvalidQueueIdentifier;
        if (completionId == 0 || completionId > (uint)_limits.MaxQueues)
            return NvmeStatus.InvalidQueueIdentifier;
        if (core.Queues.Completion(completionId) is not { } completion)
            return NvmeStatus.CompletionQueueInvalid;
        NvmeStatus status = CheckQueueMemory(command.Prp1, size, NvmeCommand.SizeShift, contiguous, core.Configuration.SubmissionEntryShift);
        if (status != NvmeStatus.Success)
            return status;
        core.Queues.AddSubmission((int)id, command.Prp1, size, priority, completion);
        return NvmeStatus.Success;
    }

    private NvmeStatus CheckQueueMemory(ulong address, uint size, int entryShift, bool contiguous, uint configuredShift)
    {
        // A host that has not set the entry size in CC may not create queues.
        if (size < 2 || size > (uint)_limits.QueueEntries || configuredShift != entryShift)
            return NvmeStatus.InvalidQueueSize;
        if (!contiguous)
            return NvmeStatus.InvalidField; // CAP.CQR
        return core.IsQueueAddress(address, size, entryShift) ? NvmeStatus.Success : NvmeStatus.PrpOffsetInvalid;
    }

    /// <summary>5.6. Commands that were not taken yet are dropped, as the host asked.</summary>
    private NvmeStatus DeleteSubmissionQueue(in NvmeCommand command)
    {
        uint id = command.Dword10 & 0xFFFF;
        if (id == 0 || core.Queues.Submission(id) is not { } queue)
            return NvmeStatus.InvalidQueueIdentifier;
        core.Scheduler.Retire(queue);
        core.Queues.Remove(queue);
        return NvmeStatus.Success;
    }

    /// <summary>5.5.</summary>
    private NvmeStatus DeleteCompletionQueue(in NvmeCommand command)
    {
        uint id = command.Dword10 & 0xFFFF;
        if (id == 0 || core.Queues.Completion(id) is not { } queue)
            return NvmeStatus.InvalidQueueIdentifier;
        if (queue.Users > 0)
            return NvmeStatus.InvalidQueueDeletion;
        core.Queues.Remove(queue);
        core.UpdatePin(); // its entries asserted it
        return NvmeStatus.Success;
    }

    /// <summary>5.13. SEL other than "current" is not offered (ONCS bit 4).</summary>
    private NvmeStatus GetFeatures(in NvmeCommand command, CommandContext context)
    {
        if (((command.Dword10 >> 8) & 7) != 0)
            return NvmeStatus.InvalidField;
        NvmeStatus status = core.Features.Get((NvmeFeature)(byte)command.Dword10, command.Dword11, out uint value);
        context.Result = value;
        return status;
    }

    /// <summary>5.21.</summary>
    private NvmeStatus SetFeatures(in NvmeCommand command, CommandContext context)
    {
        if ((command.Dword10 & (1u << 31)) != 0)
            return NvmeStatus.FeatureNotSaveable;
        bool wasCached = core.Features.WriteCache;
        NvmeStatus status = core.Features.Set((NvmeFeature)(byte)command.Dword10, command.Dword11, core.Queues.HasIoQueues, out uint value);
        context.Result = value;
        // A cache that is switched off must be empty (5.21.1.6).
        if (status == NvmeStatus.Success && wasCached && !core.Features.WriteCache)
            status = DataMover.WriteStatus(core.Image.Flush());
        return status;
    }

    /// <summary>5.14.</summary>
    private NvmeStatus GetLogPage(in NvmeCommand command, CommandContext context)
    {
        var page = (NvmeLogPage)(byte)command.Dword10;
        bool retain = (command.Dword10 & (1u << 15)) != 0;
        ulong bytes = (((command.Dword10 >> 16) | ((ulong)(command.Dword11 & 0xFFFF) << 16)) + 1) * 4;
        ulong offset = command.Dword12 | ((ulong)command.Dword13 << 32);

        Span<byte> data = context.Page;
        data.Clear();
        switch (page)
        {
            case NvmeLogPage.ErrorInformation:
                core.Errors.Read(data);
                data = data[..ErrorLog.Size];
                break;
            case NvmeLogPage.Health:
                LogPages.Health(data, core.Counters.Health(core.Errors.Count));
                data = data[..LogPages.HealthSize];
                break;
            case NvmeLogPage.FirmwareSlot:
                LogPages.FirmwareSlots(data);
                data = data[..LogPages.FirmwareSize];
                break;
            case NvmeLogPage.CommandsSupported:
                LogPages.CommandsSupported(data);
                data = data[..LogPages.CommandsSize];
                break;
            default:
                return NvmeStatus.InvalidLogPage;
        }
        // All pages are the controller's (LPA bit 0 is clear).
        if (command.Namespace is not (0 or NvmeCommand.AllNamespaces))
            return NvmeStatus.InvalidField;
        if ((offset & 3) != 0 || offset > (ulong)data.Length || bytes > (ulong)_limits.MaxTransfer)
            return NvmeStatus.InvalidField;

        NvmeStatus status = Send(command, context, data[(int)offset..], (int)bytes);
        if (status == NvmeStatus.Success && !retain)
        {
            if (page == NvmeLogPage.ErrorInformation)
                core.Events.Unmask(AsyncEventType.Error);
            else if (page == NvmeLogPage.Health)
                core.Events.Unmask(AsyncEventType.Health);
        }
        return status;
    }

    /// <summary>
    /// 5.1. A command of an I/O queue is either finished or not taken yet, and neither can be aborted; a held Async Event Request can,
    /// if its completion has room beside this one.
    /// </summary>
    private NvmeStatus Abort(in NvmeCommand command, CommandContext context)
    {
        const uint NotAborted = 1;

        context.Result = NotAborted;
        uint queueId = command.Dword10 & 0xFFFF;
        ushort id = (ushort)(command.Dword10 >> 16);
        if (queueId != 0 || core.Queues.Submission(0) is not { } admin || !admin.Completion.TryReserve())
            return NvmeStatus.Success;
        if (!core.Events.Abort(id))
        {
            admin.Completion.Unreserve();
            return NvmeStatus.Success;
        }
        context.Result = 0;
        core.Complete(context, admin, id, NvmeStatus.AbortRequested, 0);
        return NvmeStatus.Success;
    }

    /// <summary>Sends <paramref name="data"/>, cut to the <paramref name="length"/> bytes of the host's buffer.</summary>
    private static NvmeStatus Send(in NvmeCommand command, CommandContext context, ReadOnlySpan<byte> data, int length)
    {
        NvmeStatus status = context.Collect(command, length);
        if (status != NvmeStatus.Success)
            return status;
        return context.SendToHost(data[..Math.Min(data.Length, length)]) ? NvmeStatus.Success : NvmeStatus.DataTransferError;
    }
}
