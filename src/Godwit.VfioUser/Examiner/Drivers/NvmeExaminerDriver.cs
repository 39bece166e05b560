using System.Buffers.Binary;

namespace Godwit.VfioUser;

/// <summary>An NVMe controller: Identify Controller writes a page (NVM Express Base 1.4, 3.1, 4.2 and 5.15).</summary>
internal sealed class NvmeExaminerDriver(Examination e) : IExaminerDriver
{
    /// <summary>Mass storage, non-volatile memory, NVM Express.</summary>
    public const uint ClassCode = 0x010802;

    private const ulong Configuration = 0x14;
    private const ulong Status = 0x1C;
    private const ulong QueueAttributes = 0x24;
    private const ulong SubmissionBase = 0x28;
    private const ulong CompletionBase = 0x30;
    private const ulong SubmissionDoorbell = 0x1000;
    private const ulong CompletionDoorbell = 0x1004;
    private const int Entries = 16;
    private const int CommandSize = 64;
    private const int CompletionSize = 16;
    private const byte Identify = 0x06;
    private const uint IdentifyController = 1;

    private ExaminerMemory _memory = null!;
    private ulong _submission;
    private ulong _completion;
    private uint _tail;
    private uint _head;
    private int _phase = 1;

    public void Start(ExaminerMemory memory, ulong queues)
    {
        _memory = memory;
        _submission = queues;
        _completion = queues + WireLimits.PageSize;
        e.Write(PciRegion.Config, 4, [6, 4]); // memory, bus master, no pin
        Set(Configuration, 0);
        Set(QueueAttributes, (Entries - 1) << 16 | (Entries - 1));
        Set(SubmissionBase, (uint)_submission);
        Set(SubmissionBase + 4, (uint)(_submission >> 32));
        Set(CompletionBase, (uint)_completion);
        Set(CompletionBase + 4, (uint)(_completion >> 32));
        Set(Configuration, 4u << 20 | 6u << 16 | 1); // entries of 16 and 64 bytes, enable
        long start = TimeProvider.System.GetTimestamp();
        while ((BitConverter.ToUInt32(e.Read(0, Status, 4)) & 3) != 1)
            Examination.Require(TimeProvider.System.GetElapsedTime(start) < e.Options.ReplyTimeout, "the controller does not become ready");
    }

    public void Begin(ulong address)
    {
        Span<byte> command = _memory.At(_submission + _tail * CommandSize, CommandSize);
        command.Clear();
        command[0] = Identify;
        BinaryPrimitives.WriteUInt64LittleEndian(command[24..], address);
        BinaryPrimitives.WriteUInt32LittleEndian(command[40..], IdentifyController);
        _tail = (_tail + 1) % Entries;
        Set(SubmissionDoorbell, _tail);
    }

    public IReadOnlyList<(ulong Offset, int Size)> Marked { get; } = [(QueueAttributes, 4), (SubmissionBase, 4), (SubmissionBase + 4, 4), (CompletionBase, 4), (CompletionBase + 4, 4)];

    public void Mark()
    {
        Set(Configuration, 0); // disabled, it takes these
        Set(QueueAttributes, 7u << 16 | 5);
        Set(SubmissionBase, 0x1234_5000);
        Set(SubmissionBase + 4, 1);
        Set(CompletionBase, 0x2345_6000);
        Set(CompletionBase + 4, 1);
    }

    public void Await()
    {
        long start = TimeProvider.System.GetTimestamp();
        while ((Volatile.Read(ref _memory.At(_completion + _head * CompletionSize + 14, 1)[0]) & 1) != _phase)
            Examination.Require(TimeProvider.System.GetElapsedTime(start) < e.Options.ReplyTimeout, "the command does not complete");
        ushort status = BinaryPrimitives.ReadUInt16LittleEndian(_memory.At(_completion + _head * CompletionSize + 14, 2));
        Examination.Require(status >> 1 == 0, $"Identify ends with status 0x{status >> 1:x}");
        _head = (_head + 1) % Entries;
        if (_head == 0)
            _phase ^= 1;
        Set(CompletionDoorbell, _head);
    }

    private void Set(ulong register, uint value) => e.Write(0, register, BitConverter.GetBytes(value));
}
