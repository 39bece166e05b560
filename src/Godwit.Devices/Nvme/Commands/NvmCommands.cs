using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Devices;

/// <summary>The NVM command set (NVM Express Base 1.4, section 6) on one namespace. Any worker.</summary>
internal sealed class NvmCommands(NvmeLimits limits, ImageFile image, NvmeFeatureValues features, NvmeCounters counters)
{
    /// <summary>Executes a command of an I/O queue to its end.</summary>
    public NvmeStatus Execute(in NvmeCommand command, CommandContext context)
    {
        if (command.Fused != 0 || command.DataTransferKind != 0)
            return NvmeStatus.InvalidField;
        switch ((NvmOpcode)command.Opcode)
        {
            case NvmOpcode.Flush:
                return Flush(command);
            case NvmOpcode.Read:
                return Read(command, context);
            case NvmOpcode.Write:
                return Write(command, context);
            case NvmOpcode.Compare:
                return Compare(command, context);
            case NvmOpcode.WriteZeroes:
                return WriteZeroes(command);
            case NvmOpcode.DatasetManagement:
                return ManageDataset(command, context);
            default:
                return NvmeStatus.InvalidOpcode;
        }
    }

    /// <summary>Whether an opcode addresses blocks through SLBA, for the error log.</summary>
    public static bool HasStartBlock(byte opcode) =>
        (NvmOpcode)opcode is NvmOpcode.Read or NvmOpcode.Write or NvmOpcode.Compare or NvmOpcode.WriteZeroes;

    private NvmeStatus Flush(in NvmeCommand command)
    {
        if (command.Namespace is not (IdentifyData.NamespaceId or NvmeCommand.AllNamespaces))
            return NvmeStatus.InvalidNamespace;
        NvmeStatus status = DataMover.WriteStatus(image.Flush());
        if (status == NvmeStatus.Success)
            Interlocked.Increment(ref counters.Flushes);
        return status;
    }

    private NvmeStatus Read(in NvmeCommand command, CommandContext context)
    {
        NvmeStatus status = Prepare(command, context, out ulong offset, out int length);
        if (status == NvmeStatus.Success)
            status = DataMover.Read(context, image, offset);
        if (status == NvmeStatus.Success)
            counters.AddRead(length);
        return status;
    }

    private NvmeStatus Write(in NvmeCommand command, CommandContext context)
    {
        if (command.DirectiveType != 0)
            return NvmeStatus.InvalidField;
        NvmeStatus status = Prepare(command, context, out ulong offset, out int length);
        if (status == NvmeStatus.Success)
            status = DataMover.Write(context, image, offset);
        if (status == NvmeStatus.Success)
            status = Harden(command);
        if (status == NvmeStatus.Success)
            counters.AddWrite(length);
        return status;
    }

    private NvmeStatus Compare(in NvmeCommand command, CommandContext context)
    {
        NvmeStatus status = Prepare(command, context, out ulong offset, out int length);
        if (status == NvmeStatus.Success)
            status = DataMover.Compare(context, image, offset);
        if (status == NvmeStatus.Success)
            counters.AddRead(length);
        return status;
    }

    private NvmeStatus WriteZeroes(in NvmeCommand command)
    {
        NvmeStatus status = CheckRange(command.Namespace, command.StartBlock, command.BlockCount);
        if (status != NvmeStatus.Success)
            return status;
        ulong length = (ulong)command.BlockCount << limits.BlockShift;
        status = DataMover.WriteStatus(image.WriteZeroes(command.StartBlock << limits.BlockShift, length, command.Deallocate));
        if (status == NvmeStatus.Success)
            status = Harden(command);
        if (status == NvmeStatus.Success)
            counters.AddWrite(0);
        return status;
    }

    private NvmeStatus ManageDataset(in NvmeCommand command, CommandContext context)
    {
        const uint Deallocate = 1u << 2; // AD of dword 11 (6.7)

        if (command.Namespace != IdentifyData.NamespaceId)
            return NvmeStatus.InvalidNamespace;
        int count = (int)(command.Dword10 & 0xFF) + 1;
        Span<byte> list = context.Page.AsSpan(0, count * DatasetRange.Size);
        NvmeStatus status = context.Collect(command, list.Length);
        if (status != NvmeStatus.Success)
            return status;
        if (!context.FetchFromHost(list))
            return NvmeStatus.DataTransferError;

        ReadOnlySpan<DatasetRange> ranges = MemoryMarshal.Cast<byte, DatasetRange>(list);
        foreach (ref readonly DatasetRange range in ranges)
        {
            status = CheckRange(command.Namespace, range.StartBlock, range.BlockCount);
            if (status != NvmeStatus.Success)
                return status;
        }
        if ((command.Dword11 & Deallocate) != 0)
        {
            foreach (ref readonly DatasetRange range in ranges)
            {
                if (range.BlockCount == 0)
                    continue;
                Errno errno = image.Deallocate(range.StartBlock << limits.BlockShift, (ulong)range.BlockCount << limits.BlockShift);
                if (errno != Errno.None)
                    return DataMover.WriteStatus(errno);
            }
        }
        Interlocked.Increment(ref counters.Discards);
        return NvmeStatus.Success;
    }

    /// <summary>Checks a command that moves blocks and collects its memory.</summary>
    private NvmeStatus Prepare(in NvmeCommand command, CommandContext context, out ulong offset, out int length)
    {
        (offset, length) = (0, 0);
        // Size first: a length above MDTS must not become an int or a walk.
        ulong bytes = (ulong)command.BlockCount << limits.BlockShift;
        if (bytes > (ulong)limits.MaxTransfer)
            return command.Namespace == IdentifyData.NamespaceId ? NvmeStatus.InvalidField : NvmeStatus.InvalidNamespace;
        NvmeStatus status = CheckRange(command.Namespace, command.StartBlock, command.BlockCount);
        if (status != NvmeStatus.Success)
            return status;
        offset = command.StartBlock << limits.BlockShift;
        length = (int)bytes;
        return context.Collect(command, length);
    }

    private NvmeStatus CheckRange(uint @namespace, ulong start, uint count)
    {
        if (@namespace != IdentifyData.NamespaceId)
            return NvmeStatus.InvalidNamespace;
        ulong blocks = limits.BlockCount;
        return start <= blocks && count <= blocks - start ? NvmeStatus.Success : NvmeStatus.LbaOutOfRange;
    }

    /// <summary>What FUA or a disabled write cache asks for after a write.</summary>
    private NvmeStatus Harden(in NvmeCommand command) =>
        command.ForceUnitAccess || !features.WriteCache ? DataMover.WriteStatus(image.Flush()) : NvmeStatus.Success;
}
