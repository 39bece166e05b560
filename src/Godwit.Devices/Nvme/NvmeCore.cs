using System.Diagnostics;
using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>
/// The controller behind its registers: queues, commands, events, errors. The message thread changes registers and moves doorbells;
/// workers execute. Everything that needs both to agree happens with the scheduler closed and quiet.
/// </summary>
internal sealed class NvmeCore : IQueueProcessor, IDisposable
{
    /// <summary>Commands that a worker executes for one queue before it looks at the next in line.</summary>
    private const int Burst = 32;

    /// <summary>How long a completion may wait for others to share its interrupt with, while commands keep coming: 50 microseconds.</summary>
    private static readonly long SignalDelay = Stopwatch.Frequency / 20_000;

    private readonly AdminCommands _admin;
    private readonly NvmCommands _nvm;
    private volatile IDeviceHost? _host;
    private volatile bool _fatal;
    private volatile bool _ready;
    private volatile int _shutdown;
    private volatile uint _interruptMask;
    private volatile bool _msixEnabled;
    private volatile bool _pinDisabled;
    private volatile bool _flushWanted;
    private readonly Lock _pinGate = new();
    private bool _pin; // under _pinGate: what the host was told

    /// <summary>Creates a disabled controller without a client, and its worker threads.</summary>
    public NvmeCore(NvmeLimits limits, NvmeIdentity identity, ImageFile image, int workers, TimeProvider clock, LogLimiter log)
    {
        Limits = limits;
        Identity = identity;
        Image = image;
        Log = log;
        Features = new NvmeFeatureValues(limits);
        Queues = new QueueTable(limits);
        _admin = new AdminCommands(this);
        _nvm = new NvmCommands(limits, image, Features, Counters);
        Scheduler = new CommandScheduler(this, workers, limits.QueueSlots, () => new CommandContext(limits), clock);
    }

    public NvmeLimits Limits { get; }

    public NvmeIdentity Identity { get; }

    public ImageFile Image { get; }

    public LogLimiter Log { get; }

    public NvmeFeatureValues Features { get; }

    public QueueTable Queues { get; }

    public CommandScheduler Scheduler { get; }

    public NvmeCounters Counters { get; } = new();

    public AsyncEvents Events { get; } = new();

    public ErrorLog Errors { get; } = new();

    /// <summary>CC. EN is set once the controller has been told so, even if it could not become ready.</summary>
    public ControllerConfiguration Configuration { get; set; }

    /// <summary>AQA, ASQ, ACQ: survive a controller reset.</summary>
    public uint AdminQueueAttributes { get; set; }

    /// <inheritdoc cref="AdminQueueAttributes"/>
    public ulong AdminSubmissionBase { get; set; }

    /// <inheritdoc cref="AdminQueueAttributes"/>
    public ulong AdminCompletionBase { get; set; }

    /// <summary>INTMS/INTMC: vectors that a pin or plain MSI may not signal. <see cref="UpdatePin()"/> follows.</summary>
    public uint InterruptMask
    {
        get => _interruptMask;
        set => _interruptMask = value;
    }

    /// <summary>MSI-X Enable of configuration space: if set, the pin is silent.</summary>
    public bool MsixEnabled
    {
        get => _msixEnabled;
        set => _msixEnabled = value;
    }

    /// <summary>Interrupt Disable of the command register.</summary>
    public bool PinDisabled
    {
        get => _pinDisabled;
        set => _pinDisabled = value;
    }

    /// <summary>CSTS.RDY.</summary>
    public bool Ready => _ready;

    /// <summary>CSTS.CFS.</summary>
    public bool Fatal => _fatal;

    /// <summary>CSTS.SHST.</summary>
    public ShutdownStatus Shutdown => (ShutdownStatus)_shutdown;

    /// <summary>The connected client; changed with the scheduler closed and quiet.</summary>
    public IDeviceHost? Host
    {
        get => _host;
        set
        {
            lock (_pinGate)
            {
                _host = value;
                _pin = false;
            }
        }
    }

    /// <summary>Whether the interrupt pin is asserted: some interrupting completion queue has entries for the host.</summary>
    public bool PinAsserted
    {
        get
        {
            for (uint id = 0; id < (uint)Queues.Slots; id++)
            {
                if (Queues.Completion(id) is { Interrupts: true, Pending: true } queue && !PinMasked(queue.Vector))
                    return true;
            }
            return false;
        }
    }

    /// <summary>Whether a queue of <paramref name="size"/> entries may lie at <paramref name="address"/>: page-aligned, without wrap.</summary>
    public bool IsQueueAddress(ulong address, uint size, int entryShift)
    {
        ulong mask = (1UL << Configuration.PageShift) - 1;
        return (address & mask) == 0 && address <= ulong.MaxValue - (((ulong)size << entryShift) - 1);
    }

    /// <summary>Creates the admin queues as the registers say. False: they say nonsense, and the controller is fatal.</summary>
    public bool TryEnable()
    {
        ControllerConfiguration configuration = Configuration;
        uint submissions = (AdminQueueAttributes & 0xFFF) + 1;
        uint completions = ((AdminQueueAttributes >> 16) & 0xFFF) + 1;
        string? wrong =
            configuration.CommandSet != 0 ? $"CC.CSS {configuration.CommandSet} is not offered"
            : configuration.Arbitration != 0 ? $"CC.AMS {configuration.Arbitration} is not offered"
            : configuration.PageShift > ControllerRegisters.MaximumPageShift ? $"CC.MPS asks for pages of 2^{configuration.PageShift} bytes, the limit is 2^16"
            : submissions < 2 || completions < 2 ? $"AQA 0x{AdminQueueAttributes:x} has a queue of less than 2 entries"
            : !IsQueueAddress(AdminSubmissionBase, submissions, NvmeCommand.SizeShift) ? $"ASQ 0x{AdminSubmissionBase:x} is not page-aligned or wraps"
            : !IsQueueAddress(AdminCompletionBase, completions, NvmeCompletion.SizeShift) ? $"ACQ 0x{AdminCompletionBase:x} is not page-aligned or wraps"
            : null;
        if (wrong is not null)
        {
            Fail($"cannot be enabled: {wrong}");
            return false;
        }
        CreateAdminQueues(submissions, completions);
        _ready = true;
        return true;
    }

    /// <summary>Controller reset (7.3.2): all but the admin queue registers. Workers are quiet.</summary>
    public void ResetController()
    {
        Scheduler.Clear();
        Queues.Clear();
        Features.Reset();
        Events.Reset();
        _ready = false;
        _fatal = false;
        _shutdown = (int)ShutdownStatus.Normal;
        _interruptMask = 0;
        _flushWanted = false;
        UpdatePin();
    }

    /// <summary>Marks the controller broken until it is reset; workers stop at once. Any thread.</summary>
    public void Fail(string why)
    {
        _fatal = true;
        Scheduler.Halt();
        if (Log.Admit(LogKind.Fatal, out long ordinal))
            Log.WriteAdmitted($"nvme: controller of {Image.Path} {why}; it reports fatal status until it is reset", ordinal);
    }

    /// <summary>A shutdown notification (7.6.2): a worker brings the data to stable storage and then says so.</summary>
    public void BeginShutdown()
    {
        if (Shutdown != ShutdownStatus.Normal)
            return;
        if (!_ready || _fatal || Queues.Submission(0) is not { } admin)
        {
            _shutdown = (int)ShutdownStatus.Complete;
            return;
        }
        _shutdown = (int)ShutdownStatus.Occurring;
        Scheduler.MarkReady(admin);
    }

    /// <summary>Has a worker bring the data to stable storage some time soon, so that a later flush has less to do. Message thread.</summary>
    public void FlushSoon()
    {
        if (!_ready || _fatal || _flushWanted || Queues.Submission(0) is not { } admin)
            return;
        _flushWanted = true;
        Scheduler.MarkReady(admin);
    }

    /// <summary>A doorbell (3.1); <paramref name="index"/> counts doorbells from 0. Message thread.</summary>
    public void Ring(uint index, uint value)
    {
        if (!_ready || _fatal)
            return;
        uint id = index >> 1;
        if ((index & 1) == 0)
        {
            if (Queues.Submission(id) is not { } queue)
                DoorbellError(AsyncErrorInformation.InvalidDoorbellRegister, index, value);
            else if (!queue.MoveTail(value))
                DoorbellError(AsyncErrorInformation.InvalidDoorbellValue, index, value);
            else
                Scheduler.MarkReady(queue);
            return;
        }
        if (Queues.Completion(id) is not { } completion)
        {
            DoorbellError(AsyncErrorInformation.InvalidDoorbellRegister, index, value);
            return;
        }
        if (!completion.MoveHead(value))
        {
            DoorbellError(AsyncErrorInformation.InvalidDoorbellValue, index, value);
            return;
        }
        for (int word = 0; word < completion.StarvedWords; word++)
        {
            for (ulong bits = completion.TakeStarved(word); bits != 0; bits &= bits - 1)
            {
                if (Queues.Submission((uint)((word << 6) + System.Numerics.BitOperations.TrailingZeroCount(bits))) is { } waiting)
                    Scheduler.MarkReady(waiting);
            }
        }
        UpdatePin();
    }

    /// <summary>
    /// After a pause or on a new host: everything that may have work goes in line, and every queue with entries that the host may not
    /// know of is signalled again; one interrupt too many costs the guest a look, one too few stops it. Message thread, closed.
    /// </summary>
    public void Rouse()
    {
        for (uint id = 0; id < (uint)Queues.Slots; id++)
        {
            if (Queues.Submission(id) is { } queue && (id == 0 || queue.Head != queue.Tail))
                Scheduler.MarkReady(queue);
            if (Queues.Completion(id) is { Interrupts: true, Pending: true } completion)
                Announce(completion);
        }
        UpdatePin(mayRise: true);
    }

    /// <inheritdoc/>
    public QueueOutcome Process(SubmissionQueue queue, CommandContext context)
    {
        try
        {
            return ProcessBurst(queue, context);
        }
#pragma warning disable CA1031 // a defect here must cost this controller, not the process of its host; it is told, and stays visible
        catch (Exception defect)
#pragma warning restore CA1031
        {
            Fail($"met a defect: {defect}");
            return QueueOutcome.Done;
        }
    }

    /// <summary>Posts a completion into a slot that is reserved. False: the controller is fatal.</summary>
    public bool Complete(CommandContext context, SubmissionQueue queue, ushort command, NvmeStatus status, uint result)
    {
        CompletionQueue completion = queue.Completion;
        if (completion.Post(context.Host, result, (ushort)queue.Head, queue.Id, command, StatusField.Of(status)))
            return true;
        Fail($"cannot write completion queue {completion.Id} at 0x{completion.Address:x}");
        return false;
    }

    /// <summary>Takes over registers of a migrated controller; see <see cref="NvmeSnapshot"/>. Workers are quiet.</summary>
    public void RestoreStatus(bool ready, bool fatal, ShutdownStatus shutdown)
    {
        _ready = ready;
        _fatal = fatal;
        _shutdown = (int)shutdown;
    }

    /// <summary>Creates the admin queue pair with vector 0.</summary>
    public void CreateAdminQueues(uint submissions, uint completions)
    {
        CompletionQueue completion = Queues.AddCompletion(0, AdminCompletionBase, completions, interrupts: true, vector: 0);
        Queues.AddSubmission(0, AdminSubmissionBase, submissions, 0, completion);
    }

    /// <inheritdoc/>
    public void Dispose() => Scheduler.Dispose();

    private QueueOutcome ProcessBurst(SubmissionQueue queue, CommandContext context)
    {
        if (_fatal || _host is not { } host)
            return QueueOutcome.Done;
        context.Host = host;
        context.PageShift = Configuration.PageShift;
        CompletionQueue completion = queue.Completion;
        Span<byte> entry = stackalloc byte[NvmeCommand.Size];
        bool signal = queue.Id == 0 && AttendToAdmin(queue, context);

        long unsignalled = signal ? Stopwatch.GetTimestamp() : 0;
        QueueOutcome outcome = QueueOutcome.More;
        for (int executed = 0; executed < Burst; executed++)
        {
            if (!Scheduler.IsOpen || queue.Retired)
                break;
            uint head = queue.Head;
            if (head == queue.Tail || !completion.TryReserve(queue.Id))
            {
                outcome = QueueOutcome.Done;
                break;
            }
            if (!host.Read(new DmaAddress(queue.Address + ((ulong)head * NvmeCommand.Size)), entry))
            {
                completion.Unreserve();
                Fail($"cannot read submission queue {queue.Id} at 0x{queue.Address:x}");
                return QueueOutcome.Done;
            }

            NvmeCommand command = NvmeCommand.Parse(entry);
            if (signal && queue.Id != 0 && command.Opcode == (byte)NvmOpcode.Flush)
            {
                Signal(completion); // a flush may take long
                signal = false;
            }
            context.Result = 0;
            context.Held = false;
            NvmeStatus status = queue.Id == 0 ? _admin.Execute(command, context) : _nvm.Execute(command, context);
            queue.Advance();
            if (context.Held)
            {
                completion.Unreserve();
                signal |= DeliverEvents(queue, context); // one may have waited for it
                continue;
            }
            if (status != NvmeStatus.Success)
                Note(queue, command, status);
            if (!Complete(context, queue, command.Id, status, context.Result))
                return QueueOutcome.Done;
            if (queue.Id == 0)
                DeliverEvents(queue, context); // it may have read a log
            if (!signal)
            {
                signal = true;
                unsignalled = Stopwatch.GetTimestamp();
            }
            else if (Stopwatch.GetTimestamp() - unsignalled > SignalDelay)
            {
                Signal(completion);
                signal = false;
            }
        }
        if (signal)
            Signal(completion);
        return outcome;
    }

    /// <summary>What the admin queue's turn brings besides commands. True when something was posted.</summary>
    private bool AttendToAdmin(SubmissionQueue admin, CommandContext context)
    {
        if (_shutdown == (int)ShutdownStatus.Occurring)
        {
            Image.Flush(); // its error is logged; a shutdown cannot fail
            _shutdown = (int)ShutdownStatus.Complete;
        }
        if (_flushWanted)
        {
            Image.Flush(); // logged too; the flush that counts comes later
            _flushWanted = false;
        }
        return DeliverEvents(admin, context);
    }

    private bool DeliverEvents(SubmissionQueue admin, CommandContext context)
    {
        bool posted = false;
        while (!_fatal && Events.Deliverable && admin.Completion.TryReserve(admin.Id))
        {
            if (!Events.TryTake(out ushort command, out uint value))
            {
                admin.Completion.Unreserve();
                break;
            }
            if (!Complete(context, admin, command, NvmeStatus.Success, value))
                break;
            posted = true;
        }
        return posted;
    }

    private void Note(SubmissionQueue queue, in NvmeCommand command, NvmeStatus status)
    {
        Interlocked.Increment(ref Counters.Errors);
        if (status is NvmeStatus.WriteFault or NvmeStatus.UnrecoveredReadError or NvmeStatus.CapacityExceeded)
            Interlocked.Increment(ref Counters.MediaErrors);
        Errors.Add(queue.Id, command, status, queue.Id != 0 && NvmCommands.HasStartBlock(command.Opcode));
        if (status == NvmeStatus.DataTransferError && Log.Admit(LogKind.DmaError, out long ordinal))
        {
            Log.WriteAdmitted(
                $"nvme: command 0x{command.Opcode:x2} id {command.Id} of queue {queue.Id}: memory at PRP1 0x{command.Prp1:x}, PRP2 0x{command.Prp2:x} cannot be accessed",
                ordinal);
        }
    }

    private void DoorbellError(AsyncErrorInformation information, uint index, uint value)
    {
        if (Log.Admit(LogKind.Doorbell, out long ordinal))
            Log.WriteAdmitted($"nvme: doorbell {((index & 1) == 0 ? "SQ" : "CQ")} {index >> 1} = {value} refused: {information}", ordinal);
        if (Events.Raise(AsyncEvents.Compose(AsyncEventType.Error, (byte)information, NvmeLogPage.ErrorInformation))
            && Queues.Submission(0) is { } admin)
        {
            Scheduler.MarkReady(admin);
        }
    }

    /// <summary>
    /// Tells the host when the pin's level has changed: after whatever it follows from. A stopped device does not raise it;
    /// <see cref="Rouse"/> makes up for that. Any thread.
    /// </summary>
    public void UpdatePin() => UpdatePin(Scheduler.IsOpen);

    private void UpdatePin(bool mayRise)
    {
        lock (_pinGate)
        {
            bool asserted = !_msixEnabled && !_pinDisabled && PinAsserted;
            if (asserted == _pin || (asserted && !mayRise))
                return;
            _pin = asserted;
            _host?.SetPin(asserted);
        }
    }

    private void Signal(CompletionQueue completion)
    {
        if (!completion.Interrupts)
            return;
        Announce(completion);
        UpdatePin(mayRise: true);
    }

    private void Announce(CompletionQueue completion)
    {
        Interlocked.Increment(ref Counters.Interrupts);
        // A client that emulates MSI-X may keep its enable bit to itself. The index that is not in use has no eventfd.
        _host?.Trigger(PciIrq.Msix, completion.Vector);
    }

    private bool PinMasked(ushort vector) => vector < 32 && (_interruptMask & (1u << vector)) != 0;
}
